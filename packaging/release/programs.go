package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A program is what the toolchain recorded in a built program.
type program struct {
	name      string
	sha256    string
	toolchain string // go1.26.8
	modules   []string
	sums      map[string]string // module@version → h1:…
}

// readPrograms reads what is linked into each of the programs.
func readPrograms(paths []string) ([]program, error) {
	if len(paths) == 0 {
		return nil, errors.New("no programs named")
	}
	var all []program
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		sum := sha256.Sum256(data)
		p := program{name: filepath.Base(path), sha256: hex.EncodeToString(sum[:]), toolchain: info.GoVersion, sums: map[string]string{}}
		for _, dep := range info.Deps {
			if dep.Replace != nil {
				dep = dep.Replace
			}
			module := dep.Path + "@" + dep.Version
			p.modules = append(p.modules, module)
			p.sums[module] = dep.Sum
		}
		slices.Sort(p.modules)
		all = append(all, p)
	}
	return all, nil
}

// neededGlibc is the newest version of glibc that a symbol of the programs asks
// for, without which the dynamic linker refuses them.
func neededGlibc(paths []string) (string, error) {
	var newest []int
	for _, path := range paths {
		file, err := elf.Open(path)
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		symbols, err := file.ImportedSymbols()
		_ = file.Close()
		if errors.Is(err, elf.ErrNoSymbols) {
			continue // static
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		for _, symbol := range symbols {
			version, ok := strings.CutPrefix(symbol.Version, "GLIBC_")
			if !ok {
				continue
			}
			var parts []int
			for part := range strings.SplitSeq(version, ".") {
				n, err := strconv.Atoi(part)
				if err != nil {
					return "", fmt.Errorf("%s: symbol %s has version %s", path, symbol.Name, symbol.Version)
				}
				parts = append(parts, n)
			}
			if slices.Compare(parts, newest) > 0 {
				newest = parts
			}
		}
	}
	if newest == nil {
		return "", errors.New("no program is linked to glibc")
	}
	var text []string
	for _, n := range newest {
		text = append(text, strconv.Itoa(n))
	}
	return strings.Join(text, ".") + "\n", nil
}
