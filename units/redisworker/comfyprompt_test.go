package redisworker

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/units/queue"
)

func TestComfyUIPosts(t *testing.T) {
	t.Parallel()
	srv, e := comfyUp(t)
	body := []byte(`{"prompt": ` + string(loader) + `, "number": 7, "prompt_id": "x", "client_id": "x", "extra_data": {"extra_pnginfo": {"a": 1}}}`)
	o := e.Run(t.Context(), Attempt{ID: jobID, Payload: body}, func(string) {})
	if diff := cmp.Diff(Outcome{Result: []byte(saved(jobID))}, o); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	r, err := http.Get(srv.URL() + "/history/" + jobID)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var history map[string]struct{ Prompt []json.RawMessage }
	if err := json.NewDecoder(r.Body).Decode(&history); err != nil {
		t.Fatal(err)
	}
	item := history[jobID].Prompt
	var extra map[string]any
	if err := json.Unmarshal(item[3], &extra); err != nil {
		t.Fatal(err)
	}
	delete(extra, "create_time")
	sum := extra["gpuherd"].(map[string]any)["payload"]
	want := map[string]any{"client_id": jobID, "extra_pnginfo": map[string]any{"a": 1.0}, "gpuherd": map[string]any{"job": jobID, "payload": sum}}
	if diff := cmp.Diff(want, extra); diff != "" || string(item[0]) != "7" {
		t.Errorf("number %s, extra_data (-want +got):\n%s", item[0], diff)
	}
}

func TestComfyUIPromptID(t *testing.T) {
	t.Parallel()
	for job, want := range map[string]string{
		jobID:                  jobID,
		strings.ToUpper(jobID): "",
		"{" + jobID + "}":      "",
		// Python: uuid.uuid5(uuid.NAMESPACE_URL, "gpuherd:job-1")
		"job-1": "131eda3b-87d5-5d42-8959-3e2906f5f63c",
		"é":     "ce4ae330-ef19-5bcb-874b-b059024d0b39",
	} {
		got := promptID(job)
		if want == "" && (got == job || !isUUID(got)) || want != "" && got != want {
			t.Errorf("%s: %s, want %s", job, got, want)
		}
	}
}

func TestComfyUIPayloads(t *testing.T) {
	t.Parallel()
	srv, e := comfyUp(t)
	for payload, want := range map[string]string{
		"":                                      "payload is no workflow: it is no JSON object",
		"null":                                  "payload is no workflow: it is no JSON object",
		"[]":                                    "payload is no workflow: it is no JSON object",
		"{":                                     "payload is no workflow: unexpected end of JSON input",
		"{\"\xff\":1}":                          "payload is no workflow: it is no UTF-8",
		`{"prompt":"horse"}`:                    `payload is no workflow: node "prompt" is no object`,
		`{"a\u001b":1}`:                         `payload is no workflow: node "a\x1b" is no object`,
		`{"nodes":[],"links":[],"version":0.4}`: "payload is a workflow of the editor: ComfyUI's menu exports the API format",
		`{"prompt":{"1":{}},"extra_data":7}`:    "payload's extra_data: it is no JSON object",
		`{"a":` + strings.Repeat("[", 100000):   "payload is no workflow: invalid character '[' exceeded max depth",
		`{}`:                                    "Prompt has no outputs",
		`{"1":{"class_type":"Nope","inputs":{}}}`: "Node 'Nope' not found. The custom node may not be installed.: Node ID '#1'",
		`{"1":{"inputs":{}}}`:                     "Node 'ID #1' has no class_type. The workflow may be corrupted or a custom node is missing.: Node ID '#1'",
		string(flow("CheckpointLoaderSimple", map[string]any{"ckpt_name": "pony"})): `Prompt outputs failed validation: Value not in list: ckpt_name: 'pony' not in ["sd15.safetensors" "sdxl.safetensors"]`,
	} {
		o := e.Run(t.Context(), Attempt{ID: jobID, Payload: []byte(payload)}, func(string) {})
		if o.Verdict != Permanent || !strings.HasPrefix(o.Error, want) {
			t.Errorf("%.60q: outcome %+v, want %q", payload, o, want)
		}
	}
	if ran := srv.Executed(); len(ran) != 0 {
		t.Errorf("executed %v", ran)
	}
	// What the validation says of each node is kept.
	o := e.Run(t.Context(), Attempt{ID: jobID, Payload: flow("CheckpointLoaderSimple", nil)}, func(string) {})
	if o.Verdict != Permanent || !strings.Contains(o.Stderr, `"node_errors":{"1":{"errors":[{"type":"required_input_missing"`) {
		t.Errorf("outcome %+v", o)
	}
	// The largest payload, and the largest result.
	const text = queue.MaxPayload - len(`{"prompt_id":"0b7c3b0e-5d3c-4f0e-9a54-0d7f3a1c2e11","outputs":{"1":{"text":[""]}}}`)
	for n, want := range map[int]Verdict{text: Succeeded, text + 1: Permanent} {
		payload := fmt.Appendf(nil, `{"1":{"class_type":"TestText","inputs":{"bytes":%d,"more":"`, n)
		payload = append(append(payload, strings.Repeat("x", queue.MaxPayload-len(payload)-4)...), `"}}}`...)
		o := e.Run(t.Context(), Attempt{ID: jobID, Payload: payload}, func(string) {})
		if len(payload) != queue.MaxPayload || o.Verdict != want || want == Succeeded && len(o.Result) != queue.MaxPayload {
			t.Errorf("payload of %d bytes: verdict %d, %d bytes of result, %s", len(payload), o.Verdict, len(o.Result), o.Error)
		}
	}
}
