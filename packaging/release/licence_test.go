package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Everything that is linked into our programs comes under terms that allow it;
// the licence of each is read from its sources.
func TestDependenciesAreAllowed(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}}{{end}}{{end}}", "gpuherd/cmd/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	modules, err := licensedModules([]program{{name: "all", modules: strings.Fields(string(out))}})
	if err != nil {
		t.Fatal(err)
	}
	if len(modules) < 10 {
		t.Fatalf("found only %d modules: %v", len(modules), modules)
	}
	for _, m := range modules {
		t.Logf("%-14s %s", m.licence, m)
	}
	text := copyright(modules)
	for _, m := range modules {
		if !strings.Contains(text, "\n"+m.String()+"\n") {
			t.Errorf("copyright does not name %s", m)
		}
	}
	if !strings.Contains(text, "the Go standard library\n") {
		t.Error("copyright does not name the standard library")
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Apache License\n   Version 2.0, January 2004":                                                               "Apache-2.0",
		"Permission is hereby granted, free of charge, to any person\nobtaining a copy of this":                      "MIT",
		"Permission to use, copy, modify, and/or distribute this software for any purpose":                           "ISC",
		"Redistribution and use in source and binary forms, with or without\nmodification, are":                      "BSD-2-Clause",
		"Redistribution and use in source and binary forms, with or without modification. Neither the name of X":     "BSD-3-Clause",
		"Redistribution and use in source and binary forms, with or without modification. All advertising materials": "",
		"GNU GENERAL PUBLIC LICENSE":     "",
		"Mozilla Public License, v. 2.0": "",
		"All rights reserved.":           "",
		"":                               "",
	} {
		got, err := classify(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q (%v), want %q", text, got, err, want)
		}
	}
}

func TestReadLicence(t *testing.T) {
	t.Parallel()
	const mit = "Permission is hereby granted, free of charge, to any person obtaining a copy"
	for name, c := range map[string]struct {
		files map[string]string
		want  string // of the error; "": none
	}{
		"one":     {map[string]string{"LICENSE.md": mit, "NOTICE": "by A"}, ""},
		"none":    {map[string]string{"README": mit}, "no licence"},
		"unknown": {map[string]string{"COPYING": "Ask me."}, "none that is known"},
		"both":    {map[string]string{"LICENSE": mit, "LICENSE.gpl": "GNU General Public License"}, "GNU"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			m, err := readLicence(dir)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if c.want == "" && (m.licence != "MIT" || m.notice != "by A") {
				t.Errorf("read %+v", m)
			}
		})
	}
}

// The bill names every program with its sum and what is linked into it, and is
// the same twice.
func TestBillOfMaterials(t *testing.T) {
	t.Parallel()
	built := filepath.Join(t.TempDir(), "worker")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", built, "gpuherd/cmd/redis-worker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as the Makefile builds it
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bill := func() string {
		programs, err := readPrograms([]string{built})
		if err != nil {
			t.Fatal(err)
		}
		modules, err := licensedModules(programs)
		if err != nil {
			t.Fatal(err)
		}
		text, err := cycloneDX(programs, modules, "v1.2.3", runtime.GOARCH, time.Unix(0, 0).UTC())
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	text := bill()
	if again := bill(); again != text {
		t.Error("the second bill is another")
	}
	var doc bom
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	refs := map[string]bool{doc.Metadata.Component.Ref: true}
	for _, c := range doc.Components {
		if refs[c.Ref] {
			t.Errorf("%s is there twice", c.Ref)
		}
		refs[c.Ref] = true
		if len(c.Licences) != 1 || c.Version == "" {
			t.Errorf("incomplete: %+v", c)
		}
	}
	for _, d := range doc.Dependencies {
		for _, ref := range append(d.On, d.Ref) {
			if !refs[ref] {
				t.Errorf("%s is depended on, and no component", ref)
			}
		}
	}
	if !refs["gpuherd/worker"] || !refs["pkg:golang/golang.org/x/sys@"+sysVersion(t)] {
		t.Errorf("components are %v", refs)
	}
}

func sysVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Version}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestNotAProgram(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{}, {"sbom"}, {"sbom", script}, {"copyright", "/nonexistent"}, {"glibc", script}, {"fly"}, {"-changes", "/nonexistent", "notes"}} {
		if err := run(args, &strings.Builder{}); err == nil {
			t.Errorf("release %v succeeded", args)
		}
	}
}
