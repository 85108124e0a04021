package pm2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v2"
)

// A Raw is an app as it was written: its options by PM2's names.
type Raw struct {
	Options map[string]any
	// Dumped: PM2 wrote it and resolved its paths, env_NAME is applied, and
	// the environment is that of whoever started it.
	Dumped bool
	// Dir is the folder of the ecosystem file.
	Dir string
}

// Parse reads a dump, the answer of pm2 jlist, or an ecosystem file in JSON or
// YAML, which stands in the folder dir. ecosystem.config.js is JSON once node
// has run it.
func Parse(data []byte, dir string) ([]Raw, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	top, err := parseJSON(data)
	if err != nil {
		if c := bytes.TrimSpace(data); len(c) > 0 && (c[0] == '{' || c[0] == '[') {
			return nil, fmt.Errorf("is no JSON: %w", err)
		}
		var y any
		if err := yaml.Unmarshal(data, &y); err != nil {
			return nil, fmt.Errorf("is neither JSON nor YAML: %w", err)
		}
		top = plain(y)
	}
	if m, ok := top.(map[string]any); ok {
		apps, ok := m["apps"]
		if !ok {
			apps, ok = m["pm2"]
		}
		switch {
		case ok:
			top = apps
		case m["script"] != nil || m["pm_exec_path"] != nil || m["pm2_env"] != nil:
			top = []any{m}
		}
	}
	if one, ok := top.(map[string]any); ok && one["script"] != nil {
		top = []any{one}
	}
	list, ok := top.([]any)
	if !ok {
		return nil, errors.New("has no apps: neither a PM2 dump, nor the answer of pm2 jlist, nor an ecosystem file")
	}
	var apps []Raw
	for i, one := range list {
		m, ok := one.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("app %d is no object", i)
		}
		if inner, ok := m["pm2_env"].(map[string]any); ok { // jlist
			if inner["name"] == nil {
				inner["name"] = m["name"]
			}
			m = inner
		}
		apps = append(apps, Raw{Options: m, Dumped: m["pm_exec_path"] != nil, Dir: dir})
	}
	if len(apps) == 0 {
		return nil, errors.New("has no apps")
	}
	return apps, nil
}

// parseJSON reads one JSON document. The daemon of PM2 may say something before
// what jlist prints.
func parseJSON(data []byte) (any, error) {
	for {
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		var v any
		err := d.Decode(&v)
		if err == nil && len(bytes.TrimSpace(data[d.InputOffset():])) > 0 {
			err = errors.New("something stands behind its end")
		}
		if err == nil {
			return v, nil
		}
		_, rest, ok := bytes.Cut(data, []byte("\n["))
		if !ok || !bytes.HasPrefix(data, []byte(">>>>")) && !bytes.HasPrefix(data, []byte("[PM2]")) {
			return nil, err
		}
		data = append([]byte{'['}, rest...)
	}
}

// plain makes what YAML gives like what JSON does.
func plain(v any) any {
	switch v := v.(type) {
	case map[any]any:
		m := map[string]any{}
		for key, value := range v {
			m[fmt.Sprint(key)] = plain(value)
		}
		return m
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
		return v
	case int:
		return json.Number(strconv.Itoa(v))
	case float64:
		return json.Number(strconv.FormatFloat(v, 'g', -1, 64))
	case int64, uint64:
		return json.Number(fmt.Sprint(v))
	}
	return v
}

// text is a value as a string, as node would write it.
func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// clean takes out what no file can hold.
func clean(s string) string { return strings.ReplaceAll(s, "\x00", "") }
