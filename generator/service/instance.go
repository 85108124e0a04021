// Package service reads gpuherd's service files: ordinary unit files with one
// more section, [X-GPU], which says on which GPUs they run.
package service

import (
	"fmt"
	"strconv"
	"strings"
)

// An Instance names one worker of a service: "0" (GPU 0), "0:1" (MIG device 1
// of GPU 0, as NVIDIA writes it), "0.2" (the second worker on GPU 0), "0:1.2".
type Instance struct {
	GPU    int
	MIG    int // −1: the whole GPU
	Worker int // from 1; 1 is not written
}

// String returns the instance name, the %i of the unit.
func (i Instance) String() string {
	s := strconv.Itoa(i.GPU)
	if i.MIG >= 0 {
		s += ":" + strconv.Itoa(i.MIG)
	}
	if i.Worker > 1 {
		s += "." + strconv.Itoa(i.Worker)
	}
	return s
}

// ParseInstance is the inverse of String and accepts only what it writes.
func ParseInstance(s string) (Instance, error) {
	in := Instance{MIG: -1, Worker: 1}
	rest := s
	var err error
	if dev, worker, ok := strings.Cut(rest, "."); ok {
		if in.Worker, err = number(worker); err != nil || in.Worker < 2 {
			return Instance{}, fmt.Errorf("instance %q: want GPU, GPU:MIG or GPU.WORKER", s)
		}
		rest = dev
	}
	if dev, mig, ok := strings.Cut(rest, ":"); ok {
		if in.MIG, err = number(mig); err != nil {
			return Instance{}, fmt.Errorf("instance %q: want GPU, GPU:MIG or GPU.WORKER", s)
		}
		rest = dev
	}
	if in.GPU, err = number(rest); err != nil {
		return Instance{}, fmt.Errorf("instance %q: want GPU, GPU:MIG or GPU.WORKER", s)
	}
	return in, nil
}

// number takes decimal digits without sign or leading zero, so that every
// instance has exactly one name.
func number(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%q is no number", s)
	}
	return int(n), nil
}

// ParseUnit splits a service unit's name: "redis-worker@0:1.service" is
// service "redis-worker", instance "0:1"; "hello-world.service" has none.
// ok is false where unit is no service unit.
func ParseUnit(unit string) (name, instance string, ok bool) {
	base, ok := strings.CutSuffix(unit, ".service")
	if !ok || base == "" {
		return "", "", false
	}
	name, instance, _ = strings.Cut(base, "@")
	return name, instance, name != ""
}
