package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// allowed are the licences (by their SPDX identifiers) that may be linked into
// programs which are given away under Apache-2.0.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"}

// A module is a Go module with the terms it comes under.
type module struct {
	path, version, sum string
	licence            string // SPDX identifier
	text               string // the licence
	notice             string // NOTICE, which Apache-2.0 wants passed on
}

func (m module) String() string { return m.path + "@" + m.version }

var spaces = regexp.MustCompile(`\s+`)

// classify tells a licence by the words that set it apart.
func classify(text string) (string, error) {
	words := strings.ToLower(spaces.ReplaceAllString(text, " "))
	has := func(phrase string) bool { return strings.Contains(words, phrase) }
	switch {
	case has("gnu general public license"), has("gnu lesser general public"), has("gnu affero"):
		return "", errors.New("is the GNU project's")
	case has("mozilla public license"):
		return "", errors.New("is Mozilla's")
	case has("apache license") && has("version 2.0"):
		return "Apache-2.0", nil
	case has("permission is hereby granted, free of charge, to any person obtaining a copy"):
		return "MIT", nil
	case has("permission to use, copy, modify, and/or distribute this software"),
		has("permission to use, copy, modify, and distribute this software for any purpose with or without fee"):
		return "ISC", nil
	case has("redistribution and use in source and binary forms, with or without modification"):
		if has("all advertising materials") {
			return "", errors.New("has the advertising clause")
		}
		if has("neither the name of") || has("the names of its contributors may") || has("may not be used to endorse") {
			return "BSD-3-Clause", nil
		}
		return "BSD-2-Clause", nil
	}
	return "", errors.New("is none that is known here")
}

// licensedModules returns every module that is linked into one of the programs,
// sorted, with its licence out of the module cache. A licence that is not
// allowed is an error.
func licensedModules(programs []program) ([]module, error) {
	folders, err := moduleFolders()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var all []module
	var errs []error
	for _, p := range programs {
		for _, name := range p.modules {
			if seen[name] {
				continue
			}
			seen[name] = true
			path, version, _ := strings.Cut(name, "@")
			m, err := readLicence(folders[name])
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
				continue
			}
			m.path, m.version, m.sum = path, version, p.sums[name]
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b module) int { return strings.Compare(a.String(), b.String()) })
	return all, errors.Join(errs...)
}

// moduleFolders tells where the sources of each module are: module@version →
// folder.
func moduleFolders() (map[string]string, error) {
	cmd := exec.CommandContext(context.Background(), "go", "list", "-m", "-json", "all")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m: %w", err)
	}
	folders := map[string]string{}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var m struct{ Path, Version, Dir string }
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			return folders, nil
		}
		if err != nil {
			return nil, fmt.Errorf("go list -m: %w", err)
		}
		folders[m.Path+"@"+m.Version] = m.Dir
	}
}

// readLicence reads the terms in the folder of a module.
func readLicence(dir string) (module, error) {
	var m module
	if dir == "" {
		return m, errors.New("its sources are not in the module cache: go mod download")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return m, err
	}
	for _, entry := range entries {
		stem, _, _ := strings.Cut(strings.ToUpper(entry.Name()), ".")
		isLicence := stem == "LICENSE" || stem == "LICENCE" || stem == "COPYING"
		if entry.IsDir() || !isLicence && stem != "NOTICE" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return m, err
		}
		if !isLicence {
			m.notice = string(data)
			continue
		}
		if m.licence, err = classify(string(data)); err != nil {
			return m, fmt.Errorf("the licence in %s %w", entry.Name(), err)
		}
		m.text = string(data)
	}
	if m.licence == "" {
		return m, errors.New("no licence in its folder")
	}
	if !slices.Contains(allowed, m.licence) {
		return m, fmt.Errorf("licence %s is not one of %v", m.licence, allowed)
	}
	return m, nil
}
