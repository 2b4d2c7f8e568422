package main

import (
	"fmt"
	"os"

	"github.com/volcengine/volcengine-go-sdk/volcengine"
	"github.com/volcengine/volcengine-go-sdk/volcengine/credentials"
	"github.com/volcengine/volcengine-go-sdk/volcengine/session"
	"github.com/volcengine/volcengine-go-sdk/volcengine/universal"
)

func main() {
	config := volcengine.NewConfig().
		WithEndpoint(«host»).
		WithDisableSSL(«plain»).
		WithRegion(«region»).
		WithCredentials(credentials.NewStaticCredentials(os.Getenv("ACCESS_KEY"), os.Getenv("SECRET_KEY"), ""))
	api := universal.New(session.Must(session.NewSession(config)))
	info := universal.RequestUniversal{
		ServiceName: "rtc",
		Action:      «action»,
		Version:     «version»,
		HttpMethod:  universal.«go-method»,
	}
	if info.HttpMethod == universal.POST {
		info.ContentType = universal.ApplicationJSON
	}
	parameters := «parameters»
	answer, err := api.DoCall(info, &parameters)
	if err != nil {
		panic(err)
	}
	fmt.Println((*answer)["Result"])
}
