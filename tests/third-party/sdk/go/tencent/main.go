// The module tencentcloud/common, which signs, sends and raises for all modules of products. That of TRTC is not used, because not every
// module proxy serves it: what it would add are requests and answers as types, and the requests here have their shape. Forms and queries
// are made of their `name` tags; the generic request has none and goes by JSON alone.
package main

import (
	"encoding/json"
	"errors"

	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common"
	sdk "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/errors"
	tchttp "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/http"
	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/profile"

	"pagecast.test/sdk/steps"
)

type start struct {
	*tchttp.BaseRequest
	RecordUrl            *string  `json:"RecordUrl,omitempty" name:"RecordUrl"`
	MaxDurationLimit     *uint64  `json:"MaxDurationLimit,omitempty" name:"MaxDurationLimit"`
	StorageParams        *storage `json:"StorageParams,omitempty" name:"StorageParams"`
	WebRecordVideoParams *video   `json:"WebRecordVideoParams,omitempty" name:"WebRecordVideoParams"`
	SdkAppId             *uint64  `json:"SdkAppId,omitempty" name:"SdkAppId"`
	RecordId             *string  `json:"RecordId,omitempty" name:"RecordId"`
	PublishCdnParams     []*push  `json:"PublishCdnParams,omitempty" name:"PublishCdnParams"`
	ReadyTimeout         *uint64  `json:"ReadyTimeout,omitempty" name:"ReadyTimeout"`
}

type storage struct {
	CloudStorage *cloud `json:"CloudStorage,omitempty" name:"CloudStorage"`
}

type cloud struct {
	Vendor         *uint64   `json:"Vendor,omitempty" name:"Vendor"`
	Region         *string   `json:"Region,omitempty" name:"Region"`
	Bucket         *string   `json:"Bucket,omitempty" name:"Bucket"`
	AccessKey      *string   `json:"AccessKey,omitempty" name:"AccessKey"`
	SecretKey      *string   `json:"SecretKey,omitempty" name:"SecretKey"`
	FileNamePrefix []*string `json:"FileNamePrefix,omitempty" name:"FileNamePrefix"`
}

type video struct {
	Width  *uint64 `json:"Width,omitempty" name:"Width"`
	Height *uint64 `json:"Height,omitempty" name:"Height"`
	Format *string `json:"Format,omitempty" name:"Format"`
}

type push struct {
	PublishCdnUrl *string `json:"PublishCdnUrl,omitempty" name:"PublishCdnUrl"`
	IsTencentCdn  *uint64 `json:"IsTencentCdn,omitempty" name:"IsTencentCdn"`
}

type task struct {
	*tchttp.BaseRequest
	TaskId   *string `json:"TaskId,omitempty" name:"TaskId"`
	SdkAppId *uint64 `json:"SdkAppId,omitempty" name:"SdkAppId"`
	RecordId *string `json:"RecordId,omitempty" name:"RecordId"`
}

func main() {
	steps.Run(call)
}

func call(step *steps.Step) steps.Result {
	keys := common.NewTokenCredential(step.Key, step.Secret, step.Token)
	settings := profile.NewClientProfile()
	settings.HttpProfile.Scheme = "HTTP"
	settings.HttpProfile.Endpoint = step.Host
	settings.HttpProfile.ReqMethod = step.Method
	settings.SignMethod = step.Sign
	settings.UnsignedPayload = step.Unsigned
	client := common.NewCommonClient(keys, step.Region, settings)
	request := shape(step)
	request.SetSkipSign(step.SkipSign)
	response := tchttp.NewCommonResponse()
	if err := client.Send(request, response); err != nil {
		raised := &steps.Raised{Type: "error", Message: err.Error()}
		var known *sdk.TencentCloudSDKError
		if errors.As(err, &known) {
			raised = &steps.Raised{
				Type:      "TencentCloudSDKError",
				Message:   known.GetMessage(),
				Code:      known.GetCode(),
				RequestID: known.GetRequestId(),
			}
		}
		return steps.Result{Raised: raised}
	}
	var decoded struct{ Response map[string]interface{} }
	if err := json.Unmarshal(response.GetBody(), &decoded); err != nil {
		panic(err)
	}
	return steps.Result{Returned: decoded.Response}
}

func shape(step *steps.Step) tchttp.Request {
	if !step.Typed {
		request := tchttp.NewCommonRequest("trtc", step.Version, step.Action)
		if err := request.SetActionParameters(step.JSON()); err != nil {
			panic(err)
		}
		return request
	}
	named := new(tchttp.BaseRequest).Init().WithApiInfo("trtc", step.Version, step.Action)
	if step.Action == "StartWebRecord" {
		return read(step, &start{BaseRequest: named})
	}
	return read(step, &task{BaseRequest: named})
}

func read[T tchttp.Request](step *steps.Step, into T) T {
	if err := json.Unmarshal(step.JSON(), into); err != nil {
		panic(err)
	}
	return into
}
