// The module volc-sdk-golang: its typed clients of both versions, and its generic one for the rest.
package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"

	"github.com/volcengine/volc-sdk-golang/base"
	v2020 "github.com/volcengine/volc-sdk-golang/service/rtc/v20201201"
	v2023 "github.com/volcengine/volc-sdk-golang/service/rtc/v20231101"

	"pagecast.test/sdk/steps"
)

func main() {
	steps.Run(call)
}

func call(step *steps.Step) steps.Result {
	if step.Typed && step.Version == "2023-11-01" {
		client := v2023.NewInstance()
		point(client.Client, step)
		return typed2023(client, step)
	}
	client := v2020.NewInstance()
	point(client.Client, step)
	if step.Typed {
		return typed2020(client, step)
	}
	return generic(client.Client, step)
}

// point has a client talk to this machine.
func point(client *base.Client, step *steps.Step) {
	client.SetScheme("http")
	client.SetHost(step.Host)
	client.SetCredential(base.Credentials{
		AccessKeyID:     step.Key,
		SecretAccessKey: step.Secret,
		SessionToken:    step.Token,
		Region:          step.Region,
		Service:         step.Service,
	})
}

func typed2020(client *v2020.Rtc, step *steps.Step) steps.Result {
	switch step.Action {
	case "StartWebcast":
		return result(client.StartWebcast(context.Background(), read(step, new(v2020.StartWebcastBody))))
	case "StopWebcast":
		return result(client.StopWebcast(context.Background(), read(step, new(v2020.StopWebcastBody))))
	default:
		return result(client.GetWebCastTask(context.Background(), read(step, new(v2020.GetWebCastTaskQuery))))
	}
}

func typed2023(client *v2023.Rtc, step *steps.Step) steps.Result {
	switch step.Action {
	case "StartWebcast":
		return result(client.StartWebcast(context.Background(), read(step, new(v2023.StartWebcastBody))))
	case "StopWebcast":
		return result(client.StopWebcast(context.Background(), read(step, new(v2023.StopWebcastBody))))
	default:
		return result(client.GetWebCastTask(context.Background(), read(step, new(v2023.GetWebCastTaskQuery))))
	}
}

func generic(client *base.Client, step *steps.Step) steps.Result {
	values := url.Values{}
	for name, value := range step.Params {
		if text, ok := value.(string); ok {
			values.Set(name, text)
		}
	}
	info := &base.ApiInfo{
		Method: step.Method,
		Path:   "/",
		Query:  url.Values{"Action": []string{step.Action}, "Version": []string{step.Version}},
	}
	if step.Query {
		client.ApiInfoList = map[string]*base.ApiInfo{"call": info}
		signed, err := client.GetSignUrl("call", values)
		if err != nil {
			return steps.Result{Raised: &steps.Raised{Type: "error", Message: err.Error()}}
		}
		return fetch("http://" + step.Host + "/?" + signed)
	}
	var data []byte
	var status int
	var err error
	if step.Method == http.MethodGet {
		data, status, err = client.CtxQueryThumb(context.Background(), step.Action, info, values)
	} else {
		data, status, err = client.CtxJsonThumb(context.Background(), step.Action, info, nil, step.JSON())
	}
	var decoded *map[string]interface{}
	if len(data) > 0 {
		decoded = new(map[string]interface{})
		if decodeErr := json.Unmarshal(data, decoded); decodeErr != nil {
			return result[map[string]interface{}](nil, status, decodeErr)
		}
	}
	return result(decoded, status, err)
}

// read turns parameters into the type of a client.
func read[T any](step *steps.Step, into *T) *T {
	if err := json.Unmarshal(step.JSON(), into); err != nil {
		panic(err)
	}
	return into
}

func result[T any](decoded *T, status int, err error) steps.Result {
	var answer steps.Result
	if decoded != nil {
		answer.Returned = decoded
	}
	if err != nil {
		answer.Raised = &steps.Raised{Type: "error", Message: err.Error(), Status: status}
	}
	return answer
}

// fetch gets what an address that is signed leads to.
func fetch(address string) steps.Result {
	response, err := http.Get(address)
	if err != nil {
		return steps.Result{Raised: &steps.Raised{Type: "error", Message: err.Error()}}
	}
	defer response.Body.Close()
	var body interface{}
	text, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(text, &body)
	}
	if err != nil {
		return steps.Result{Raised: &steps.Raised{Type: "error", Message: err.Error(), Status: response.StatusCode}}
	}
	return steps.Result{Returned: map[string]interface{}{"status": response.StatusCode, "body": body}}
}
