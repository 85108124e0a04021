package redisclient

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// told is an error as a server answers it.
type told string

func (e told) Error() string { return string(e) }
func (told) RedisError()     {}

func TestDiagnose(t *testing.T) {
	t.Parallel()
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, tt := range []struct {
		err    error
		reason string
		text   string // what is told, without what was wrapped around
	}{
		{told("WRONGTYPE Operation against a key holding the wrong kind of value script: 4b835ac, on @user_script:16."), WrongType,
			"WRONGTYPE Operation against a key holding the wrong kind of value; " + mends[WrongType]},
		{told("ERR Error running script (call to f_4b835ac): @user_script:16: WRONGTYPE Operation against a key"), WrongType,
			"WRONGTYPE Operation against a key; " + mends[WrongType]},
		{told("ERR Error running script (call to f_4b835ac): @user_script: 16: -OOM command not allowed"), OutOfMemory,
			"-OOM command not allowed; " + mends[OutOfMemory]},
		{told("ERR Error running script (call to f_4b835ac): @user_script:3: The user executing the script can't run this command or subcommand"), Forbidden,
			"The user executing the script can't run this command or subcommand; " + mends[Forbidden]},
		{told("NOAUTH Authentication required."), Unauthorised, "NOAUTH Authentication required; " + mends[Unauthorised]},
		{told("ERR AUTH <password> called without any password configured"), Unauthorised, ""},
		{told("NOPERM this user has no permissions"), Forbidden, ""},
		{told("LOADING Redis is loading"), Loading, ""},
		{told("MISCONF Redis is configured to save"), Unsaved, ""},
		{told("MOVED 1 127.0.0.1:1"), Unclustered, ""},
		{told("ERR unknown command"), Refused, "ERR unknown command"},
		{fmt.Errorf("redis: all sentinels specified in configuration are unreachable: %w", errors.Join(dial, told("NOAUTH x"))), Leaderless,
			"redis: all sentinels specified in configuration are unreachable: dial tcp: connection refused; NOAUTH x; " + mends[Leaderless]},
		{x509.HostnameError{Certificate: &x509.Certificate{}, Host: "box"}, Certificate, ""},
		{dial, Unreachable, "dial tcp: connection refused"},
		{io.EOF, Unreachable, "EOF"},
		{context.DeadlineExceeded, Timeout, ""},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, Timeout, ""},
		{redis.ErrPoolTimeout, Timeout, ""},
		{errors.New("something"), Unknown, "something"},
	} {
		got := Diagnose(fmt.Errorf("cannot write: %w", tt.err))
		if got.Reason != tt.reason {
			t.Errorf("%v has reason %s, want %s", tt.err, got.Reason, tt.reason)
		}
		if tt.text != "" && !strings.HasSuffix(got.Error(), tt.text) {
			t.Errorf("%v is told as\n%s, want\n%s", tt.err, got, tt.text)
		}
		if !errors.Is(got, tt.err) || strings.Contains(got.Error(), "\n") {
			t.Errorf("%v became %v", tt.err, got)
		}
		if again := Diagnose(fmt.Errorf("once more: %w", got)); again.Reason != tt.reason || again.Error() != "once more: "+got.Error() {
			t.Errorf("diagnosed twice: %v", again)
		}
	}
	if Diagnose(nil) != nil {
		t.Error("nothing is a trouble")
	}
}

func TestMendOf(t *testing.T) {
	t.Parallel()
	const at, ask = "redis://gpuherd@redis1:6379", "gpuherd doctor asks Redis as the workers do, and says what it answers"
	for status, want := range map[string]string{
		Diagnose(told("WRONGPASS invalid pair")).Status(at):    mends[Unauthorised],
		Diagnose(told("NOPERM no permissions")).Status(at):     mends[Forbidden],
		Diagnose(io.EOF).Status(at):                            ask, // as a time-out is told
		Diagnose(context.DeadlineExceeded).Status(at):          ask,
		Diagnose(told("ERR unknown command")).Status(at):       ask, // there is no mend
		"Redis at " + at + " is quite full":                    "",
		"waiting for Redis at " + at:                           "",
		"job j finished, but Redis is full":                    "",
		"":                                                     "",
		"Redis at redis://x is full, attempt 1 of 3: is full ": "",
	} {
		if got := MendOf(status); got != want {
			t.Errorf("the mend of %q is %q, want %q", status, got, want)
		}
	}
}

func TestSays(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]string{
		io.EOF:                   "does not answer",
		context.DeadlineExceeded: "does not answer",
		told("WRONGPASS invalid pair for secret"): "refuses the user or password",
		told("NOAUTH Authentication required."):   "refuses the user or password",
		told("OOM command not allowed"):           "is full",
		told("READONLY You can't write"):          "is read-only",
		told("LOADING Redis is loading"):          "is loading its data",
		told("ERR unknown command"):               "answers with an error",
	} {
		if got := Diagnose(fmt.Errorf("cannot claim: %w", err)).Says(); got != want {
			t.Errorf("of %v it says %q, want %q", err, got, want)
		}
	}
	for _, reason := range Reasons {
		if says[reason] == "" {
			t.Errorf("nothing is said of %s", reason)
		}
	}
}
