package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The parts of CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/) that are
// written here.
type bom struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Licences   []licence  `json:"licenses,omitempty"`
	URL        string     `json:"purl,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type licence struct {
	Licence struct {
		ID string `json:"id"`
	} `json:"license"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn"`
}

func under(id string) []licence {
	var l licence
	l.Licence.ID = id
	return []licence{l}
}

func goURL(path, version string) string { return "pkg:golang/" + path + "@" + version }

// cycloneDX is the bill of materials of the programs: what is linked into each.
func cycloneDX(programs []program, modules []module, version, arch string, at time.Time) (string, error) {
	root := component{
		Type: "application", Ref: "gpuherd", Name: "gpuherd", Version: version,
		Licences: under("Apache-2.0"), Properties: []property{{"gpuherd:architecture", arch}},
	}
	doc := bom{
		Format: "CycloneDX", Spec: "1.6", Version: 1,
		Metadata: metadata{Timestamp: at.Format(time.RFC3339), Component: root},
	}
	toolchain := strings.TrimPrefix(programs[0].toolchain, "go")
	std := component{
		Type: "library", Ref: goURL("std", toolchain), Name: "std", Version: toolchain,
		Licences: under("BSD-3-Clause"), URL: goURL("std", toolchain),
	}
	whole := dependency{Ref: root.Ref}
	var parts []dependency
	for _, p := range programs {
		ref := "gpuherd/" + p.name
		doc.Components = append(doc.Components, component{
			Type: "application", Ref: ref, Name: p.name, Version: version,
			Hashes: []hash{{"SHA-256", p.sha256}}, Licences: under("Apache-2.0"),
		})
		whole.On = append(whole.On, ref)
		on := []string{std.Ref}
		for _, name := range p.modules {
			path, version, _ := strings.Cut(name, "@")
			on = append(on, goURL(path, version))
		}
		parts = append(parts, dependency{Ref: ref, On: on})
	}
	doc.Components = append(doc.Components, std)
	for _, m := range modules {
		doc.Components = append(doc.Components, component{
			Type: "library", Ref: goURL(m.path, m.version), Name: m.path, Version: m.version,
			Licences: under(m.licence), URL: goURL(m.path, m.version),
			Properties: []property{{"go:sum", m.sum}},
		})
	}
	doc.Dependencies = append([]dependency{whole}, parts...)
	data, err := json.Marshal(doc)
	if err != nil {
		return "", fmt.Errorf("cannot write the bill of materials: %w", err)
	}
	// Of the contents, where others draw it by lot: the same twice.
	sum := sha256.Sum256(data)
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // RFC 9562: version 8
	doc.Serial = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
	data, err = json.MarshalIndent(doc, "", "  ")
	return string(data) + "\n", err
}
