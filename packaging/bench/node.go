package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// installModules puts packages of npm (name → version) into a folder of the
// user's cache, once, and a program that needs them.
func installModules(ctx context.Context, packages map[string]string, name string, program []byte) (string, error) {
	if err := installNode(ctx); err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	var versions []string
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(packages))) {
		versions = append(versions, name+"-"+packages[name])
	}
	dir := filepath.Join(cache, "gpuherd", "bench", strings.Join(versions, "-"))
	done := filepath.Join(dir, "installed")
	if _, err := os.Stat(done); err == nil {
		return dir, os.WriteFile(filepath.Join(dir, name), program, 0o644)
	}
	manifest, err := json.Marshal(map[string]any{"private": true, "dependencies": packages})
	if err != nil {
		return "", err
	}
	if err := write(filepath.Join(dir, "package.json"), string(manifest)); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cannot install %v with npm: %w", versions, err)
	}
	return dir, errors.Join(os.WriteFile(filepath.Join(dir, name), program, 0o644), write(done, ""))
}

// installNode installs Debian's node and npm where there is none.
func installNode(ctx context.Context) error {
	var missing []string
	for program, name := range map[string]string{"node": "nodejs", "npm": "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"install", "-y", "--no-install-recommends"}, missing...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot install %v: %w", missing, err)
	}
	return nil
}
