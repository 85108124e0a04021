package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/units/queue"
)

// A queueJob is a job in a list, and its JSON. Times are Unix time in ms by
// Redis' clock.
type queueJob struct {
	ID           string `json:"id"`
	State        string `json:"state"`
	Priority     string `json:"priority,omitempty"` // while it waits or runs
	Entry        string `json:"entry,omitempty"`    // of the stream that it is in
	PayloadBytes int64  `json:"payload_bytes"`
	Attempts     int    `json:"attempts"`
	Worker       string `json:"worker,omitempty"`
	Progress     string `json:"progress,omitempty"`
	Cancelling   bool   `json:"cancelling,omitempty"`
	Error        string `json:"error,omitempty"`
	Reason       string `json:"reason,omitempty"`
	Stderr       string `json:"stderr,omitempty"`
	EnqueuedMS   int64  `json:"enqueued_ms,omitempty"`
	DueMS        int64  `json:"due_ms,omitempty"`
	StartedMS    int64  `json:"started_ms,omitempty"`
	FinishedMS   int64  `json:"finished_ms,omitempty"`
}

func newQueueJob(id string, p queue.Priority, bytes int64, r queue.Record) queueJob {
	return queueJob{
		ID: id, State: r.State, Priority: priorityName(p), PayloadBytes: bytes, Attempts: r.Attempts, Worker: r.Worker,
		Progress: r.Progress, Cancelling: r.Cancelling, Error: r.Error, Reason: r.Reason, Stderr: r.Stderr,
		EnqueuedMS: unixMS(r.Enqueued), DueMS: unixMS(r.Due), StartedMS: unixMS(r.Started), FinishedMS: unixMS(r.Finished),
	}
}

func unixMS(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// priorities are the words for them, the first to be run first.
var priorities = []string{"high", "normal", "low"}

func priorityName(p queue.Priority) string {
	if p < queue.High || p > queue.Low {
		return ""
	}
	return priorities[p-queue.High]
}

// since is how long the job has been in its state.
func (j *queueJob) since(now time.Time) string {
	ms := j.EnqueuedMS
	switch j.State {
	case queue.Running:
		ms = j.StartedMS
	case queue.Succeeded, queue.Dead, queue.Cancelled:
		ms = j.FinishedMS
	}
	if ms == 0 {
		return terminal.None
	}
	return terminal.Span(now.Sub(time.UnixMilli(ms)))
}

// detail is what there is to say of the job in its state.
func (j *queueJob) detail(now time.Time) string {
	var parts []string
	switch j.State {
	case queue.Running:
		if j.Cancelling {
			parts = append(parts, "is to be cancelled")
		}
		if j.Progress != "" {
			parts = append(parts, progressText(j.Progress))
		}
	case queue.Dead:
		return j.failure()
	case queue.Delayed:
		if wait := time.UnixMilli(j.DueMS).Sub(now); j.DueMS > 0 && wait > 0 {
			parts = append(parts, "due in "+terminal.Span(wait))
		} else {
			parts = append(parts, "due")
		}
	}
	if failure := j.failure(); failure != "" && (j.State == queue.Waiting || j.State == queue.Delayed) {
		parts = append(parts, "after "+failure)
	}
	return strings.Join(parts, ", ")
}

// failure is the last failed attempt's reason and error, as far as they tell
// something.
func (j *queueJob) failure() string {
	if j.Reason == "" || j.Reason == queue.Failed || j.Error == "" {
		return j.Error
	}
	return j.Reason + ": " + j.Error
}

func jobStyle(state string) terminal.Style {
	switch state {
	case queue.Running:
		return terminal.Busy
	case queue.Succeeded:
		return terminal.Good
	case queue.Dead:
		return terminal.Bad
	case queue.Cancelled:
		return terminal.Faint
	}
	return terminal.Plain
}

// percentage reads progress that is a number from 0 to 100.
func percentage(progress string) (percent float64, ok bool) {
	percent, err := strconv.ParseFloat(progress, 64)
	return percent, err == nil && !math.IsNaN(percent) && percent >= 0 && percent <= 100
}

// progressText is a job's progress for people.
func progressText(progress string) string {
	if percent, ok := percentage(progress); ok {
		return terminal.Percent(percent)
	}
	return progress
}

// A queueDetail is everything of one job, and the JSON of show. What is no
// UTF-8 is in base64 instead.
type queueDetail struct {
	queueJob
	MaxAttempts   int     `json:"max_attempts,omitempty"` // absent: the worker's own
	TimeoutS      float64 `json:"timeout_s,omitempty"`    // of an attempt; absent: the worker's own
	Trace         string  `json:"trace,omitempty"`
	Payload       *string `json:"payload,omitempty"` // absent once the job has ended
	PayloadBase64 []byte  `json:"payload_base64,omitempty"`
	Result        *string `json:"result,omitempty"`
	ResultBase64  []byte  `json:"result_base64,omitempty"`
}

func newQueueDetail(j queue.Job, r queue.Record) queueDetail {
	d := queueDetail{
		queueJob:    newQueueJob(j.ID, j.Priority, int64(len(j.Payload)), r),
		MaxAttempts: j.MaxAttempts, TimeoutS: j.Timeout.Seconds(), Trace: j.Trace,
	}
	switch r.State {
	case queue.Succeeded:
		d.Result, d.ResultBase64 = textOrBytes(r.Result)
	case queue.Dead:
		if len(j.Payload) == 0 {
			break // it may have been purged
		}
		fallthrough
	case queue.Waiting, queue.Delayed, queue.Running:
		d.Payload, d.PayloadBase64 = textOrBytes(string(j.Payload))
	}
	return d
}

func textOrBytes(s string) (text *string, data []byte) {
	if utf8.ValidString(s) {
		return &s, nil
	}
	return nil, []byte(s)
}

// fields lays a job out for people.
func (d *queueDetail) fields(now time.Time) []terminal.Field {
	one := func(name, value string) terminal.Field {
		if value == "" {
			return terminal.Field{Name: name}
		}
		return terminal.Field{Name: name, Values: []string{value}}
	}
	at := func(name string, ms int64) terminal.Field {
		if ms == 0 {
			return terminal.Field{Name: name}
		}
		ago := now.Sub(time.UnixMilli(ms))
		text := terminal.Span(ago) + " ago"
		if ago < 0 {
			text = "in " + terminal.Span(-ago)
		}
		return one(name, stamp(ms)+", "+text)
	}
	state := d.State
	if d.Cancelling {
		state += ", is to be cancelled"
	}
	attempts := strconv.Itoa(d.Attempts)
	if d.MaxAttempts > 0 {
		attempts += " of " + strconv.Itoa(d.MaxAttempts)
	}
	timeout := ""
	if d.TimeoutS > 0 {
		timeout = time.Duration(d.TimeoutS * float64(time.Second)).String()
	}
	reason := d.Reason
	if reason == queue.Failed {
		reason = ""
	}
	return []terminal.Field{
		{Name: "Job", Values: []string{d.ID}, Style: terminal.Strong},
		{Name: "State", Values: []string{state}, Style: jobStyle(d.State)},
		one("Priority", d.Priority),
		one("Attempts", attempts),
		one("Worker", d.Worker),
		one("Progress", progressText(d.Progress)),
		at("Enqueued", d.EnqueuedMS),
		at("Due", d.DueMS),
		at("Started", d.StartedMS),
		at("Finished", d.FinishedMS),
		one("Time-out", timeout),
		one("Trace", d.Trace),
		{Name: "Error", Values: lines(d.Error), Style: terminal.Bad},
		one("Reason", reason),
		{Name: "Stderr", Values: lines(d.Stderr)},
		{Name: "Payload", Values: excerpt(d.Payload, d.PayloadBase64, "--payload")},
		{Name: "Result", Values: excerpt(d.Result, d.ResultBase64, "--result")},
	}
}

// lines returns the lines of a text, none where it is empty.
func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// excerpt is what fits between other fields of a text, or of what is none.
func excerpt(text *string, data []byte, whole string) []string {
	const mostLines, mostBytes = 20, 2000
	switch {
	case data != nil:
		return []string{fmt.Sprintf("(%s of no text, by %s)", count(len(data), "byte"), whole)}
	case text == nil:
		return nil
	case *text == "":
		return []string{"(empty)"}
	}
	s := *text
	if len(s) > mostBytes {
		s = strings.ToValidUTF8(s[:mostBytes], "") // a character that was cut
	}
	list := lines(s)
	list = list[:min(len(list), mostLines)]
	shown := len(strings.Join(list, "\n"))
	if rest := len(strings.TrimSuffix(*text, "\n")) - shown; rest > 1 {
		list = append(list, fmt.Sprintf("(%s more, by %s)", count(rest, "byte"), whole))
	}
	return list
}

// printBytes writes a payload or a result to stdout: as it is, or so that a
// terminal does not obey it.
func (a *app) printBytes(data string) error {
	if !a.out.Terminal {
		_, err := a.stdout.Write([]byte(data))
		return err
	}
	for _, line := range lines(data) {
		a.stdout.say("%s\n", terminal.Inert(line))
	}
	return nil
}
