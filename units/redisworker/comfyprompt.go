package redisworker

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A prompt is a job as ComfyUI takes it.
type prompt struct {
	id      string
	payload string   // its digest, by which a prompt of the same ID is known
	nodes   []string // IDs of the workflow's
	body    []byte   // of POST /prompt
	there   bool     // ComfyUI has it, or may have
}

// mark is what the worker adds to extra_data, which /queue and /history give
// back.
type mark struct {
	Job     string `json:"job"`
	Payload string `json:"payload"` // SHA-256
}

// newPrompt reads a payload. The error says why no ComfyUI could run it.
func newPrompt(a Attempt) (*prompt, error) {
	body, err := object(a.Payload)
	if err != nil {
		return nil, fmt.Errorf("payload is no workflow: %w", err)
	}
	workflow, err := object(body["prompt"])
	if err != nil || workflow["class_type"] != nil {
		workflow = body
		body = map[string]json.RawMessage{"prompt": a.Payload}
	}
	if workflow["nodes"] != nil && workflow["links"] != nil {
		return nil, errors.New("payload is a workflow of the editor: ComfyUI's menu exports the API format")
	}
	sum := sha256.Sum256(a.Payload)
	p := &prompt{id: promptID(a.ID), payload: hex.EncodeToString(sum[:])}
	for id, node := range workflow {
		if _, err := object(node); err != nil {
			return nil, fmt.Errorf("payload is no workflow: node %.40q is no object", id)
		}
		p.nodes = append(p.nodes, id)
	}
	extra := map[string]json.RawMessage{}
	if given, ok := body["extra_data"]; ok {
		if extra, err = object(given); err != nil {
			return nil, fmt.Errorf("payload's extra_data: %w", err)
		}
	}
	body["prompt_id"] = quoted(p.id)
	body["client_id"] = quoted(p.id) // that of the websocket which hears of the prompt
	if extra["gpuherd"], err = json.Marshal(mark{a.ID, p.payload}); err != nil {
		return nil, err
	}
	if body["extra_data"], err = json.Marshal(extra); err != nil {
		return nil, err
	}
	p.body, err = json.Marshal(body)
	return p, err
}

// object reads a JSON object.
func object(data []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("it is no UTF-8")
	}
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return nil, errors.New("it is no JSON object")
	}
	m := map[string]json.RawMessage{}
	return m, json.Unmarshal(data, &m)
}

func quoted(s string) json.RawMessage {
	data, _ := json.Marshal(s) // a string has no error
	return data
}

// same says whether what was found is this job with this payload.
func (p *prompt) same(s sighting) bool {
	return s.mark.Payload == p.payload
}

// promptID is the ID of a job's prompt.
func promptID(job string) string {
	if isUUID(job) {
		return job
	}
	// Version 5, in the namespace for URLs: RFC 9562, 5.5 and 6.6.
	h := sha1.New()
	h.Write([]byte("\x6b\xa7\xb8\x11\x9d\xad\x11\xd1\x80\xb4\x00\xc0\x4f\xd4\x30\xc8gpuherd:" + job))
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 5<<4
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// isUUID tells the only spelling that ComfyUI takes.
func isUUID(s string) bool { return inHex(s, 8, 4, 4, 4, 12) }

// inHex says whether s is lower-case hexadecimal digits, in groups of these
// lengths with a dash between.
func inHex(s string, lengths ...int) bool {
	groups := strings.Split(s, "-")
	return slices.EqualFunc(groups, lengths, func(g string, n int) bool {
		return len(g) == n && strings.Trim(g, "0123456789abcdef") == ""
	})
}
