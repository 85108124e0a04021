package main

import (
	"flag"
	"io"
	"os"
	"slices"
	"testing"

	"go.yaml.in/yaml/v2"

	"gpuherd/generator/unitfile"
)

// The pod for Kubernetes runs this program as it is.
func TestPod(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../packaging/container/pod.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var pod struct {
		Spec struct {
			TerminationGracePeriodSeconds float64 `yaml:"terminationGracePeriodSeconds"`
			Containers                    []struct {
				Command, Args []string
				Env           []struct{ Name, Value string }
				VolumeMounts  []struct {
					MountPath string `yaml:"mountPath"`
				} `yaml:"volumeMounts"`
			}
		}
	}
	if err := yaml.Unmarshal(data, &pod); err != nil {
		t.Fatal(err)
	}
	container := pod.Spec.Containers[0]
	if !slices.Equal(container.Command, []string{"/usr/local/bin/redis-worker"}) {
		t.Errorf("it runs %v", container.Command)
	}
	var set settings
	flags := flag.NewFlagSet("redis-worker", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	set.register(flags)
	if err := flags.Parse(container.Args); err != nil || flags.NArg() > 0 {
		t.Fatalf("%v are no arguments of redis-worker: %v %v", container.Args, err, flags.Args())
	}
	if argv, err := unitfile.SplitArgv(set.exec); err != nil || len(argv) != 2 {
		t.Errorf("--exec is %q (%v)", argv, err)
	}
	if set.consumer == "" || set.queue == "" || set.drain.Seconds() <= 0 || set.drain.Seconds() >= pod.Spec.TerminationGracePeriodSeconds {
		t.Errorf("%+v, within %v s", set, pod.Spec.TerminationGracePeriodSeconds)
	}
	for _, v := range container.Env {
		if v.Name == "CREDENTIALS_DIRECTORY" && v.Value != container.VolumeMounts[0].MountPath {
			t.Errorf("the credentials are looked for in %s and mounted at %s", v.Value, container.VolumeMounts[0].MountPath)
		}
	}
}
