package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Check says whether the program answers. String is what it waits for.
type Check interface {
	fmt.Stringer
	check(ctx context.Context, f *family) error
}

// HTTP is a GET that has to be answered with 200 to 399; redirects are not
// followed.
type HTTP struct{ URL string }

// ParseHTTP reads the URL of an HTTP check, or of Options.StopHTTP.
func ParseHTTP(s string) (HTTP, error) {
	u, err := url.Parse(s)
	var bad *url.Error
	switch {
	case errors.As(err, &bad):
		return HTTP{}, fmt.Errorf("is no URL: %w; write http://127.0.0.1:8188/", bad.Err) // without the URL, which may hold a password
	case err != nil:
		return HTTP{}, err
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return HTTP{}, errors.New("is no URL of http or https; write http://127.0.0.1:8188/")
	}
	return HTTP{s}, nil
}

func (h HTTP) String() string { return redacted(h.URL) }

// redacted is a URL without its password and its query.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "its URL"
	}
	u.RawQuery = ""
	return u.Redacted()
}

// local is for servers that stand beside this process: no proxy of the
// environment is meant, and no connection is kept that would hide one that
// cannot be made any more.
var local = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (h HTTP) check(ctx context.Context, _ *family) error {
	return ask(ctx, http.MethodGet, h.URL, 399)
}

func post(ctx context.Context, address string) error {
	return ask(ctx, http.MethodPost, address, 299)
}

// ask fails on an answer above most.
func ask(ctx context.Context, method, address string, most int) error {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return err
	}
	resp, err := local.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // without the URL
		}
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > most {
		return fmt.Errorf("answers %s", resp.Status)
	}
	return nil
}

// TCP is an address that has to take a connection: host:port, or the path of a
// unix socket.
type TCP struct{ Address string }

// ParseTCP reads the address of a TCP check.
func ParseTCP(s string) (TCP, error) {
	if strings.HasPrefix(s, "/") {
		return TCP{s}, nil
	}
	if _, port, err := net.SplitHostPort(s); err != nil || port == "" {
		return TCP{}, errors.New("is no address; write 127.0.0.1:8188, or the path of a unix socket")
	}
	return TCP{s}, nil
}

func (t TCP) String() string { return t.Address }

func (t TCP) check(ctx context.Context, _ *family) error {
	network := "tcp"
	if strings.HasPrefix(t.Address, "/") {
		network = "unix"
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, t.Address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// File is a file that the program makes or changes.
type File struct {
	path string
	old  os.FileInfo // as it was before; nil: it was not there
}

// NewFile remembers what is at path now: only what comes later counts.
func NewFile(path string) *File {
	info, err := os.Stat(path)
	if err != nil {
		info = nil
	}
	return &File{path, info}
}

func (f *File) String() string { return "file " + f.path }

func (f *File) check(context.Context, *family) error {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("does not exist")
	case err != nil:
		return err
	case f.old != nil && os.SameFile(info, f.old) && info.ModTime().Equal(f.old.ModTime()):
		return errors.New("is that of an earlier run")
	}
	return nil
}

// Command is a program that has to exit with status 0. It has the environment
// of this process; what it prints is not shown.
type Command struct{ Argv []string }

func (c Command) String() string { return "command " + c.Argv[0] }

func (c Command) check(ctx context.Context, f *family) error {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env = environment(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := f.start(cmd); err != nil {
		return err
	}
	err := f.wait(cmd)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// try makes a check within d.
func try(ctx context.Context, c Check, f *family, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	err := c.check(ctx, f)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", d)
	}
	return err
}

// The pauses between two attempts, and the bound of one, until the program is
// ready.
const (
	pollFirst   = 10 * time.Millisecond
	pollMost    = 500 * time.Millisecond
	pollTimeout = 5 * time.Second
)

// poll makes a check until it succeeds, and reports what is new about why it
// does not. False says that ctx is done.
func poll(ctx context.Context, c Check, f *family, report func(string)) bool {
	last := ""
	for pause := pollFirst; ; pause = min(pause*2, pollMost) {
		err := try(ctx, c, f, pollTimeout)
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil:
			return true
		case err.Error() != last:
			last = err.Error()
			report(fmt.Sprintf("waiting for %s: %s", c, last))
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}
