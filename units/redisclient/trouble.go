package redisclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Reasons for which Redis does not do what it should.
const (
	Unreachable  = "unreachable" // nobody listens, or the connection broke
	Timeout      = "timeout"     // no answer in time
	Certificate  = "tls"         // no trust in the other's certificate, or no TLS
	Unauthorised = "auth"        // wrong user or password
	Forbidden    = "permission"  // the ACL does not allow it
	ReadOnly     = "readonly"    // a replica
	OutOfMemory  = "oom"         // above its maxmemory
	Loading      = "loading"     // it reads its data
	WrongType    = "wrongtype"   // a key holds something else
	Unsaved      = "misconf"     // it cannot write to its disk
	Unclustered  = "cluster"     // a Cluster without a node for the key, or used as one server
	Leaderless   = "sentinel"    // Sentinel knows no master
	Refused      = "server"      // any other error that Redis answers
	Unknown      = "other"
)

// Reasons lists them all.
var Reasons = []string{
	Unreachable, Timeout, Certificate, Unauthorised, Forbidden, ReadOnly, OutOfMemory,
	Loading, WrongType, Unsaved, Unclustered, Leaderless, Refused, Unknown,
}

// mends says what to do, or why it passes. What is not in it speaks for itself.
var mends = map[string]string{
	Timeout:      "it gives no answer: it hangs, a firewall is between, or it does not speak the TLS of rediss://",
	Certificate:  "check rediss:// in [Redis] URL= and the credentials " + CredentialCA + ", " + CredentialCert + " and " + CredentialKey,
	Unauthorised: "check the user in [Redis] URL= and the credential " + CredentialPassword,
	Forbidden:    "its user lacks a right of those in gpuherd-redis(7), USERS",
	ReadOnly:     "it is a replica: let [Redis] URL= name the primary, or Sentinel by ?master_name=",
	OutOfMemory:  "it is full: raise its maxmemory or remove keys of others",
	Loading:      "it reads its data from disk and answers once it has",
	WrongType:    "somebody else's key has a name of ours: remove it, or change [Redis] Prefix=",
	Unsaved:      "it cannot save to its disk and so takes no write: see its log",
	Unclustered:  "a Cluster's nodes are named by ?addr= in [Redis] URL=; while one is replaced this passes",
	Leaderless:   "no Sentinel names a master: check ?master_name= and the addresses in [Redis] URL=",
}

// says is what Redis does instead, in words that follow its name. They have
// nothing of the error's own, in which a secret could be.
var says = map[string]string{
	Unreachable:  "does not answer",
	Timeout:      "does not answer",
	Certificate:  "cannot be trusted by TLS",
	Unauthorised: "refuses the user or password",
	Forbidden:    "denies the user a right",
	ReadOnly:     "is read-only",
	OutOfMemory:  "is full",
	Loading:      "is loading its data",
	WrongType:    "has something else under a key of ours",
	Unsaved:      "cannot save to its disk",
	Unclustered:  "has no node for the key",
	Leaderless:   "has no master",
	Refused:      "answers with an error",
	Unknown:      "cannot be used",
}

// A Trouble is an error of Redis with the reason it has and what mends it.
type Trouble struct {
	Reason string // one of Reasons
	Mend   string // what to do; "": the error speaks for itself
	Err    error  // as go-redis gave it
}

// whichScript is what Redis adds to an error to say where in a script it came
// about, before 7.0 and since.
var whichScript = regexp.MustCompile(`ERR Error running script \(call to f_[0-9a-f]+\): @user_script: ?[0-9]+: |\.? script: [0-9a-f]+, on @user_script:[0-9]+\.?`)

// Error tells what happened and what to do, in one line.
func (t *Trouble) Error() string {
	text := strings.ReplaceAll(whichScript.ReplaceAllString(t.Err.Error(), ""), "\n", "; ")
	if t.Mend == "" {
		return text
	}
	return strings.TrimRight(text, ". ") + "; " + t.Mend
}

// Says returns in a few words, for a status, what Redis does instead of what
// it should: "is full". They follow its name.
func (t *Trouble) Says() string { return says[t.Reason] }

// statusHead begins every Status.
const statusHead = "Redis at "

// Status returns in one line, for a program's STATUS=, what Redis at where, an
// address without a password, does instead of what it should.
func (t *Trouble) Status(where string) string { return statusHead + where + " " + t.Says() }

// MendOf returns what mends the trouble that a Status tells. Where its words do
// not say which trouble it is, or nothing is known to mend that, it says who
// finds out. It is empty for any other text.
func MendOf(status string) string {
	if !strings.HasPrefix(status, statusHead) {
		return ""
	}
	var told []string
	for reason, words := range says {
		if strings.HasSuffix(status, " "+words) {
			told = append(told, reason)
		}
	}
	switch {
	case len(told) == 0:
		return ""
	case len(told) == 1 && mends[told[0]] != "":
		return mends[told[0]]
	}
	return "gpuherd doctor asks Redis as the workers do, and says what it answers"
}

// Unwrap returns Err.
func (t *Trouble) Unwrap() error { return t.Err }

// Diagnose tells why Redis failed. It returns nil for nil, and a Trouble as it
// is.
func Diagnose(err error) *Trouble {
	if err == nil {
		return nil
	}
	var known *Trouble
	if errors.As(err, &known) {
		return &Trouble{Reason: known.Reason, Mend: "", Err: err}
	}
	r := reason(err)
	return &Trouble{Reason: r, Mend: mends[r], Err: err}
}

// codes are what the errors of a server begin with.
var codes = map[string]string{
	"WRONGPASS": Unauthorised, "NOAUTH": Unauthorised, "NOPERM": Forbidden, "READONLY": ReadOnly, "OOM": OutOfMemory,
	"LOADING": Loading, "WRONGTYPE": WrongType, "MISCONF": Unsaved,
	"CLUSTERDOWN": Unclustered, "TRYAGAIN": Unclustered, "MOVED": Unclustered, "ASK": Unclustered, "CROSSSLOT": Unclustered,
	// What a replica says that has lost its primary, or a primary its replicas.
	"MASTERDOWN": ReadOnly, "NOREPLICAS": ReadOnly,
}

// inScript finds the error in what Redis 6.2 makes of one within a script: "ERR
// Error running script (call to f_…): @user_script:16: WRONGTYPE Operation …".
var inScript = regexp.MustCompile(`^ERR .*@user_script: ?[0-9]+: -?([A-Z]+) `)

// Code returns what the error that a server answered begins with, "WRONGTYPE",
// also where it came about within a script. It is empty for any other error.
func Code(err error) string {
	var told redis.Error
	if !errors.As(err, &told) {
		return ""
	}
	if m := inScript.FindStringSubmatch(told.Error()); m != nil {
		return m[1]
	}
	code, _, _ := strings.Cut(told.Error(), " ")
	return code
}

func reason(err error) string {
	if strings.Contains(err.Error(), "all sentinels specified") {
		return Leaderless // what each of them said stands behind it
	}
	var told redis.Error
	if errors.As(err, &told) {
		return answered(err, told.Error())
	}
	var (
		verify *tls.CertificateVerificationError
		host   x509.HostnameError
		record tls.RecordHeaderError
		alert  tls.AlertError
		netErr net.Error
	)
	switch {
	case errors.As(err, &verify), errors.As(err, &host), errors.As(err, &record), errors.As(err, &alert):
		return Certificate
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, redis.ErrPoolTimeout), errors.As(err, &netErr) && netErr.Timeout():
		return Timeout
	case errors.As(err, &netErr), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return Unreachable
	}
	return Unknown
}

// answered reads the error that a server sent.
func answered(err error, text string) string {
	if reason, ok := codes[Code(err)]; ok {
		return reason
	}
	switch {
	case strings.Contains(text, "user executing the script can't"), strings.Contains(text, "ACL failure in script"):
		return Forbidden
	case strings.HasPrefix(text, "ERR AUTH"): // a password for a server without
		return Unauthorised
	}
	return Refused
}
