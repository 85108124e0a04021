// Package journal reads back from systemd's journal what happened to units
// while no monitor watched: the records of journalctl, and the phases of units
// that follow from them.
//
// journalctl runs as a child, since libsystemd's own reader would want cgo. It
// is bounded in time and size: a journal is never a reason for the monitor to
// stand still.
package journal

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// A Kind is what a Record tells.
type Kind int

// The kinds, each a MESSAGE_ID of sd-messages.h, where systemd's PID 1 tells
// it with the fields that are named here.
const (
	Starting   Kind = iota + 1 // a start has begun that takes a while; JOB_TYPE
	Started                    // it is up, or a condition kept it from starting; JOB_TYPE
	Stopping                   // a stop has begun that takes a while; JOB_TYPE
	Stopped                    // it is down; JOB_TYPE=restart where it will start again
	Succeeded                  // it ended well
	Skipped                    // ExecCondition= kept it from starting
	Failed                     // it failed; UNIT_RESULT
	Exited                     // a process failed; COMMAND, EXIT_CODE, EXIT_STATUS
	Scheduled                  // an automatic restart; N_RESTARTS
	Suppressed                 // journald dropped records of PID 1; N_DROPPED
)

var kinds = map[string]Kind{
	"7d4958e842da4a758f6c1cdc7b36dcc5": Starting,   // SD_MESSAGE_UNIT_STARTING
	"39f53479d3a045ac8e11786248231fbf": Started,    // SD_MESSAGE_UNIT_STARTED
	"de5b426a63be47a7b6ac3eaac82e2f6f": Stopping,   // SD_MESSAGE_UNIT_STOPPING
	"9d1aaa27d60140bd96365438aad20286": Stopped,    // SD_MESSAGE_UNIT_STOPPED
	"7ad2d189f7e94e70a38c781354912448": Succeeded,  // SD_MESSAGE_UNIT_SUCCESS
	"0e4284a0caca4bfc81c0bb6786972673": Skipped,    // SD_MESSAGE_UNIT_SKIPPED
	"d9b373ed55a64feb8242e02dbe79a49c": Failed,     // SD_MESSAGE_UNIT_FAILURE_RESULT
	"98e322203f7a4ed290d09fe03c09fe15": Exited,     // SD_MESSAGE_UNIT_PROCESS_EXIT
	"5eb03494b6584870a536b337290809b3": Scheduled,  // SD_MESSAGE_UNIT_RESTART_SCHEDULED
	"a596d6fe7bfa4994828e72309e95d61e": Suppressed, // SD_MESSAGE_JOURNAL_DROPPED
}

// A Record is one entry of the journal.
type Record struct {
	Kind       Kind
	AtUS       int64  // unix time when PID 1 wrote it, µs
	MonoUS     uint64 // CLOCK_MONOTONIC when journald took it, µs
	Unit       string // UNIT; empty in Suppressed
	Invocation string // INVOCATION_ID: 32 hex digits; empty: never started
	Job        string // JOB_TYPE: start, stop, restart, …
	Result     string // UNIT_RESULT: signal, exit-code, oom-kill, …
	Command    string // COMMAND: ExecStart is the main process
	ExitCode   string // EXIT_CODE: exited, killed, dumped
	ExitStatus int32  // EXIT_STATUS: exit status, or signal number
	Restarts   uint32 // N_RESTARTS
}

// fields are what journalctl is asked for; those that begin with two
// underscores come anyhow.
const fields = "MESSAGE_ID,UNIT,INVOCATION_ID,JOB_TYPE,UNIT_RESULT,COMMAND,EXIT_CODE,EXIT_STATUS,N_RESTARTS,_SOURCE_REALTIME_TIMESTAMP"

// A field is a value in journalctl's JSON: a string, null where it is too
// long, an array of numbers where it is no UTF-8, or an array of such values
// where the entry has the field more than once. Only the first kind, and the
// first of several, is of use here.
type field string

func (f *field) UnmarshalJSON(data []byte) error {
	var s string
	if json.Unmarshal(data, &s) == nil {
		*f = field(s)
		return nil
	}
	var many []json.RawMessage
	if json.Unmarshal(data, &many) == nil && len(many) > 0 && json.Unmarshal(many[0], &s) == nil {
		*f = field(s)
	}
	return nil
}

func (f field) number() (uint64, error) { return strconv.ParseUint(string(f), 10, 63) }

// Parse reads one line of `journalctl --output=json`. An entry that is no
// Record is an error.
func Parse(line []byte) (Record, error) {
	var e struct {
		ID       field `json:"MESSAGE_ID"`
		Unit     field `json:"UNIT"`
		Invoc    field `json:"INVOCATION_ID"`
		Job      field `json:"JOB_TYPE"`
		Result   field `json:"UNIT_RESULT"`
		Command  field `json:"COMMAND"`
		Code     field `json:"EXIT_CODE"`
		Status   field `json:"EXIT_STATUS"`
		Restarts field `json:"N_RESTARTS"`
		Source   field `json:"_SOURCE_REALTIME_TIMESTAMP"`
		Real     field `json:"__REALTIME_TIMESTAMP"`
		Mono     field `json:"__MONOTONIC_TIMESTAMP"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return Record{}, fmt.Errorf("cannot read a journal entry: %w", err)
	}
	r := Record{
		Kind: kinds[string(e.ID)], Unit: string(e.Unit), Invocation: string(e.Invoc), Job: string(e.Job),
		Result: string(e.Result), Command: string(e.Command), ExitCode: string(e.Code),
	}
	if r.Kind == 0 {
		return Record{}, fmt.Errorf("journal entry with the unexpected MESSAGE_ID %q", e.ID)
	}
	if r.Unit == "" && r.Kind != Suppressed {
		return Record{}, fmt.Errorf("journal entry %s without UNIT", e.ID)
	}
	mono, err := e.Mono.number()
	if err != nil {
		return Record{}, fmt.Errorf("journal entry of %s: __MONOTONIC_TIMESTAMP: %w", r.Unit, err)
	}
	at, err := e.Source.number()
	if err != nil { // journald's own
		at, err = e.Real.number()
	}
	if err != nil {
		return Record{}, fmt.Errorf("journal entry of %s: __REALTIME_TIMESTAMP: %w", r.Unit, err)
	}
	r.MonoUS, r.AtUS = mono, int64(at)
	if n, err := strconv.ParseInt(string(e.Status), 10, 32); err == nil {
		r.ExitStatus = int32(n)
	}
	if n, err := strconv.ParseUint(string(e.Restarts), 10, 32); err == nil {
		r.Restarts = uint32(n)
	}
	return r, nil
}

// monotonic returns when journald took any entry, on CLOCK_MONOTONIC in µs.
func monotonic(line []byte) (uint64, error) {
	var e struct {
		Mono field `json:"__MONOTONIC_TIMESTAMP"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return 0, fmt.Errorf("cannot read a journal entry: %w", err)
	}
	mono, err := e.Mono.number()
	if err != nil {
		return 0, fmt.Errorf("__MONOTONIC_TIMESTAMP of a journal entry: %w", err)
	}
	return mono, nil
}
