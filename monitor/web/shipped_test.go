package web

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"go.yaml.in/yaml/v2"

	"gpuherd/monitor/state"
)

// families returns what a scrape has, with every metric of ours in it.
func families(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	m := NewMetrics(sources())
	m.Push(state.Delta{Units: sources().Units()})
	all, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*dto.MetricFamily{}
	for _, f := range all {
		byName[f.GetName()] = f
	}
	return byName
}

var (
	quoted    = regexp.MustCompile(`"[^"]*"`)
	matchers  = regexp.MustCompile(`\{[^}]*\}`)
	ranges    = regexp.MustCompile(`\[[^\]]*\]`)
	groupings = regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
	labelName = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	word      = regexp.MustCompile(`\b[a-zA-Z_:][a-zA-Z0-9_:]*\b\s*\(?`)
)

// names returns the metrics and the labels that an expression of PromQL names.
// It knows as much of the language as the files that we ship use.
func names(expr string) (metrics, labels []string) {
	expr = quoted.ReplaceAllString(expr, `""`)
	for _, m := range matchers.FindAllString(expr, -1) {
		for _, l := range labelName.FindAllStringSubmatch(m, -1) {
			labels = append(labels, l[1])
		}
	}
	for _, g := range groupings.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(g[1], ",") {
			labels = append(labels, strings.TrimSpace(l))
		}
	}
	for _, r := range []*regexp.Regexp{matchers, ranges, groupings} {
		expr = r.ReplaceAllString(expr, " ")
	}
	for _, w := range word.FindAllString(expr, -1) {
		if strings.HasSuffix(w, "(") { // a function
			continue
		}
		if w = strings.TrimSpace(w); !slices.Contains([]string{"and", "or", "unless", "bool", "offset"}, w) {
			metrics = append(metrics, w)
		}
	}
	return metrics, labels
}

func TestNames(t *testing.T) {
	t.Parallel()
	metrics, labels := names(`histogram_quantile(0.5, sum by (le, unit) (rate(a_bucket{host=~"x{y}", b!="c"}[5m]))) > 0.95 and on (gpu) d == 1 or vector(0)`)
	if got := strings.Join(metrics, " "); got != "a_bucket d" {
		t.Errorf("metrics %s", got)
	}
	if got := strings.Join(labels, " "); got != "host b le unit gpu" {
		t.Errorf("labels %s", got)
	}
}

// checkExpr says what an expression names that no scrape has.
func checkExpr(t *testing.T, where, expr string) {
	t.Helper()
	scrape := families(t)
	// What Prometheus itself adds.
	known := map[string]bool{"instance": true, "job": true, "le": true}
	for _, f := range scrape {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				known[l.GetName()] = true
			}
		}
	}
	metrics, labels := names(expr)
	if len(metrics) == 0 {
		t.Errorf("%s: %q names no metric", where, expr)
	}
	for _, m := range metrics {
		base, isBucket := strings.CutSuffix(m, "_bucket")
		f, ok := scrape[base]
		if isBucket && ok && f.GetType() == dto.MetricType_HISTOGRAM || m == "up" {
			continue
		}
		if _, ok := scrape[m]; !ok {
			t.Errorf("%s: there is no metric %s", where, m)
		}
	}
	for _, l := range labels {
		if !known[l] {
			t.Errorf("%s: no metric has a label %s", where, l)
		}
	}
	if strings.Count(expr, "(") != strings.Count(expr, ")") {
		t.Errorf("%s: %q: parentheses", where, expr)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile("../../packaging/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRules(t *testing.T) {
	t.Parallel()
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(read(t, "prometheus/gpuherd.rules.yml"), &file); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || seen[r.Alert] {
				t.Errorf("alert %q has no name of its own", r.Alert)
			}
			seen[r.Alert] = true
			checkExpr(t, r.Alert, r.Expr)
			if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
				t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
			}
			for _, a := range []string{"summary", "description"} {
				if !strings.HasSuffix(r.Annotations[a], ".") {
					t.Errorf("%s: %s %q is no sentence", r.Alert, a, r.Annotations[a])
				}
			}
		}
	}
	if len(seen) < 8 {
		t.Errorf("found only %d alerts", len(seen))
	}
}

func TestDashboard(t *testing.T) {
	t.Parallel()
	type target struct{ Expr string }
	var board struct {
		Title, UID string
		Panels     []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []target
		}
		Templating struct {
			List []struct {
				Name, Type string
				Query      any
			}
		}
	}
	if err := json.Unmarshal(read(t, "grafana/gpuherd.json"), &board); err != nil {
		t.Fatal(err)
	}
	variables := []string{"$__rate_interval"}
	for _, v := range board.Templating.List {
		variables = append(variables, "$"+v.Name)
		if q, ok := v.Query.(map[string]any); ok {
			expr := q["query"].(string)
			expr = strings.TrimSuffix(strings.TrimPrefix(expr, "label_values("), ")")
			metric, label, _ := cutLast(expr, ",")
			checkExpr(t, "variable "+v.Name, "max by ("+strings.TrimSpace(label)+") ("+metric+")")
		}
	}
	ids, used := map[int]bool{}, map[[2]int]string{}
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("%s: another panel has the id %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := used[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%s lies over %s, or beyond the edge", p.Title, other)
				}
				used[[2]int{x, y}] = p.Title
			}
		}
		if len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			checkExpr(t, p.Title, target.Expr)
			for _, v := range regexp.MustCompile(`\$[a-z_]+`).FindAllString(target.Expr, -1) {
				if !slices.Contains(variables, v) {
					t.Errorf("%s: there is no variable %s", p.Title, v)
				}
			}
		}
	}
	if len(board.Panels) < 10 {
		t.Errorf("found only %d panels", len(board.Panels))
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// The page names each metric of ours, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	page := strings.ReplaceAll(string(read(t, "man/gpuherd-api.7")), `\-`, "-")
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile(`\bgpuherd_[a-z0-9_]+`).FindAllString(page, -1) {
		documented[m] = true
	}
	for name := range families(t) {
		if strings.HasPrefix(name, "gpuherd_") && !documented[name] {
			t.Errorf("gpuherd-api(7) does not have %s", name)
		}
		delete(documented, name)
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		t.Errorf("gpuherd-api(7) has %s, which is no metric", name)
	}
}
