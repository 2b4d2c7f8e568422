package main

import (
	"fmt"
	"os"

	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common"
	tchttp "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/http"
	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/profile"
)

func main() {
	settings := profile.NewClientProfile()
	settings.HttpProfile.Scheme = «SCHEME»
	settings.HttpProfile.Endpoint = «host»
	keys := common.NewCredential(os.Getenv("ACCESS_KEY"), os.Getenv("SECRET_KEY"))
	client := common.NewCommonClient(keys, «region», settings)
	request := tchttp.NewCommonRequest("trtc", «version», «action»)
	parameters := «parameters»
	if err := request.SetActionParameters(parameters); err != nil {
		panic(err)
	}
	response := tchttp.NewCommonResponse()
	if err := client.Send(request, response); err != nil {
		panic(err)
	}
	fmt.Println(string(response.GetBody()))
}
