// Package npm installs what gpuherd is held against and npm has, for benchmarks
// and tests.
package npm

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// PM2 is the version of PM2, so that a run can be repeated.
const PM2 = "7.0.4"

// Install puts packages (name → version) into the node_modules of a folder of
// the user's cache, once, and returns that folder. Where node or npm is missing
// it installs Debian's, as root. It needs the network, and tells its progress on
// stderr. Two calls for the same packages must not run at once.
func Install(ctx context.Context, packages map[string]string) (string, error) {
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
	dir := filepath.Join(cache, "gpuherd", "npm", strings.Join(versions, "-"))
	done := filepath.Join(dir, "installed")
	if _, err := os.Stat(done); err == nil {
		return dir, nil
	}
	manifest, err := json.Marshal(map[string]any{"private": true, "dependencies": packages})
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "package.json"), manifest, 0o644); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cannot install %v with npm: %w", versions, err)
	}
	return dir, os.WriteFile(done, nil, 0o644)
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
