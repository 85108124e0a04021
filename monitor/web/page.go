package web

import (
	"bytes"
	_ "embed"
	"html"
	"net/http"
)

// The pages are written here, on the server, so that they are whole without a
// script. page.js then asks for the same as JSON and puts it in place.
var (
	//go:embed assets/page.css
	pageCSS []byte
	//go:embed assets/page.js
	pageJS []byte
)

// policy lets a page load nothing but what is served here, and make no HTML out
// of text.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// A page is what never changes of it.
type page struct {
	view   string // where its content is as JSON
	events string // what tells of changes; "": nothing does
}

// A view is the content of a page. All of it is text.
type view struct {
	Lines  []cell  `json:"lines"`
	Tables []table `json:"tables"`
	title  string
}

type table struct {
	ID      string   `json:"id"` // in the page
	Rows    [][]cell `json:"rows"`
	title   string
	columns []column
}

type column struct {
	title string
	right bool // numbers stand to the right
}

// A cell is a text with how it looks.
type cell struct {
	Text  string `json:"text"`
	Style string `json:"style,omitempty"` // classes of page.css
}

// Styles, as the classes of page.css are called.
const (
	styleGood = "good" // as it should be
	styleBusy = "busy" // on its way
	styleBad  = "bad"  // needs somebody
	styleSoft = "soft" // of less interest
)

func newTable(id, title string, columns []column) table {
	return table{ID: id, title: title, columns: columns, Rows: [][]cell{}} // in JSON [], and not null
}

// row aligns cells as the columns say.
func (t *table) row(cells ...cell) {
	for i := range cells {
		if t.columns[i].right {
			cells[i].Style = join(cells[i].Style, "right")
		}
	}
	t.Rows = append(t.Rows, cells)
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + " " + b
}

// write returns p with the content v. It is the only place that makes HTML, and
// escapes whatever it is given.
func (p page) write(v view) []byte {
	var b bytes.Buffer
	// Each part of markup is followed by a text.
	put := func(parts ...string) {
		for i, part := range parts {
			if i%2 == 1 {
				part = html.EscapeString(part)
			}
			b.WriteString(part)
		}
	}
	put(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>`, v.title, ` – gpuherd</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/assets/page.css">
<script src="/assets/page.js" defer></script>
<body data-view="`, p.view, `" data-events="`, p.events, `">
<header><h1>`, v.title, `</h1><nav><a href="/">this host</a> <a href="/fleet">fleet</a></nav><span id="live"></span></header>
<main>
<div id="lines">`)
	for _, l := range v.Lines {
		put(`<p class="`, l.Style, `">`, l.Text, `</p>`)
	}
	put("</div>\n")
	for _, t := range v.Tables {
		put(`<h2>`, t.title, "</h2>\n<section><table><thead><tr>")
		for _, c := range t.columns {
			style := ""
			if c.right {
				style = "right"
			}
			put(`<th class="`, style, `">`, c.title, `</th>`)
		}
		put(`</tr></thead><tbody id="`, t.ID, "\">\n")
		for _, row := range t.Rows {
			put(`<tr>`)
			for _, c := range row {
				put(`<td class="`, c.Style, `">`, c.Text, `</td>`)
			}
			put("</tr>\n")
		}
		put("</tbody></table></section>\n")
	}
	put("</main>\n</body>\n</html>\n")
	return b.Bytes()
}

// pages adds the pages, and what they are made of.
func (s *Server) pages(mux *http.ServeMux, a access) {
	host, all := page{view: "/view/host", events: "/api/v1/events"}, page{view: "/view/fleet"}
	for _, of := range []struct {
		path string
		page page
		view func(*http.Request) view
	}{{"/{$}", host, s.hostView}, {"/fleet", all, s.fleetView}} {
		mux.HandleFunc("GET "+of.path, a.guard(func(w http.ResponseWriter, r *http.Request) {
			pageHeaders(w)
			send(w, "text/html; charset=utf-8", of.page.write(of.view(r)))
		}))
		mux.HandleFunc("GET "+of.page.view, a.guard(func(w http.ResponseWriter, r *http.Request) {
			answer(w, http.StatusOK, of.view(r))
		}))
	}
	for _, asset := range []struct {
		name, kind string
		data       []byte
	}{{"page.css", "text/css; charset=utf-8", pageCSS}, {"page.js", "text/javascript; charset=utf-8", pageJS}} {
		mux.HandleFunc("GET /assets/"+asset.name, a.guard(func(w http.ResponseWriter, _ *http.Request) {
			send(w, asset.kind, asset.data)
		}))
	}
}

func send(w http.ResponseWriter, kind string, data []byte) {
	headers(w, kind)
	_, _ = w.Write(data)
}

func pageHeaders(w http.ResponseWriter) {
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
	w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
	w.Header().Set("Referrer-Policy", "no-referrer")
}
