module pagecast.test/sdk

go 1.21

require (
	github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common v1.3.209
	github.com/volcengine/volc-sdk-golang v1.0.253
	github.com/volcengine/volcengine-go-sdk v1.1.35
)

require (
	github.com/cenkalti/backoff/v4 v4.1.2 // indirect
	github.com/google/uuid v1.3.0 // indirect
	github.com/jmespath/go-jmespath v0.4.0 // indirect
	golang.org/x/net v0.12.0 // indirect
	golang.org/x/text v0.11.0 // indirect
	gopkg.in/yaml.v2 v2.4.0 // indirect
)
