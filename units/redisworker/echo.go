package redisworker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// Echo is the job jobs/echo: it reads a payload and writes a line of JSON with
// it and with the GPU that the job sees. A payload that is no JSON becomes a
// string; bytes that are no UTF-8 are replaced in it.
func Echo(stdin io.Reader, stdout io.Writer, getenv func(string) string) error {
	payload, err := io.ReadAll(stdin)
	if err != nil {
		return fmt.Errorf("cannot read payload: %w", err)
	}
	answer := struct {
		Payload json.RawMessage `json:"payload"`
		GPU     string          `json:"gpu"`
		Index   any             `json:"gpu_index"`
		Job     string          `json:"job"`
		Attempt any             `json:"attempt"`
		Worker  string          `json:"worker"`
	}{
		GPU: getenv("CUDA_VISIBLE_DEVICES"), Index: number(getenv("GPU_INDEX")),
		Job: getenv("JOB_ID"), Attempt: number(getenv("JOB_ATTEMPT")), Worker: getenv("WORKER_ID"),
	}
	if trimmed := bytes.TrimSpace(payload); utf8.Valid(trimmed) && json.Valid(trimmed) {
		answer.Payload = trimmed
	} else if answer.Payload, err = json.Marshal(string(payload)); err != nil {
		return fmt.Errorf("cannot write payload: %w", err)
	}
	var line bytes.Buffer
	enc := json.NewEncoder(&line) // ends with a newline
	enc.SetEscapeHTML(false)
	if err := enc.Encode(answer); err != nil {
		return fmt.Errorf("cannot write answer: %w", err)
	}
	if _, err := stdout.Write(line.Bytes()); err != nil {
		return fmt.Errorf("cannot write answer: %w", err)
	}
	return nil
}

// number is s as a number, as a string where it is none, and null where it is
// not there.
func number(s string) any {
	if s == "" {
		return nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	return s
}
