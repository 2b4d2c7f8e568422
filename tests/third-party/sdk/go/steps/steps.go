// Package steps reads steps, one JSON object a line, and writes for each what an SDK returned, and with which error. It judges
// nothing.
package steps

import (
	"bufio"
	"encoding/json"
	"os"
	"sync"
)

// Step is a call that is asked for.
type Step struct {
	Host     string                 `json:"host"`
	Key      string                 `json:"key"`
	Secret   string                 `json:"secret"`
	Token    string                 `json:"token"`
	Region   string                 `json:"region"`
	Service  string                 `json:"service"`
	Action   string                 `json:"action"`
	Version  string                 `json:"version"`
	Method   string                 `json:"method"`
	Params   map[string]interface{} `json:"params"`
	Body     *string                `json:"body"`
	Query    bool                   `json:"query"`
	Sign     string                 `json:"sign"`
	Unsigned bool                   `json:"unsigned"`
	SkipSign bool                   `json:"skip_sign"`
	Typed    bool                   `json:"typed"`
	Times    int                    `json:"times"`
}

// JSON is the step's parameters.
func (step *Step) JSON() []byte {
	if step.Body != nil {
		return []byte(*step.Body)
	}
	text, err := json.Marshal(step.Params)
	if err != nil {
		panic(err)
	}
	return text
}

// Result is the result of a step.
type Result struct {
	Returned interface{} `json:"returned,omitempty"`
	Raised   *Raised     `json:"raised,omitempty"`
}

// Raised is an error.
type Raised struct {
	Type      string `json:"type"`
	Message   string `json:"message"`
	Code      string `json:"code,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	Status    int    `json:"status,omitempty"`
}

// Run goes on until there are no more.
func Run(call func(*Step) Result) {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		step := new(Step)
		if err := json.Unmarshal(lines.Bytes(), step); err != nil {
			panic(err)
		}
		all := make([]Result, max(step.Times, 1))
		var group sync.WaitGroup
		for i := range all {
			i := i
			group.Add(1)
			go func() {
				defer group.Done()
				all[i] = call(step)
			}()
		}
		group.Wait()
		var answer interface{} = all[0]
		if step.Times > 0 {
			answer = map[string]interface{}{"all": all}
		}
		if err := answers.Encode(answer); err != nil {
			panic(err)
		}
	}
}
