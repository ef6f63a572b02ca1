package jobfile

import (
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Place is a part of a job: of a task, of a group if Task is empty, or of the job if both are.
type Place struct {
	Group, Task string
	// Steps are the keys and labels that lead to it, such as "config", "secret", "db", "env", "DB_USER".
	Steps []string
	// Nth is which of several blocks that have all of the steps, from 0.
	Nth int
}

// Find gives the line of a place: of its attribute; else of the last block that is on the way to it; else of the task.
func (f *File) Find(p Place) Position {
	if f.body == nil {
		return Position{File: f.Name}
	}
	body, at := f.body, hcl.Range{Filename: f.Name}
	enter := func(kind, label string) bool {
		b := blockOf(body, kind, label)
		if b != nil {
			body, at = b.Body, b.DefRange()
		}
		return b != nil
	}
	if job := blockOf(body, "job", ""); job != nil {
		body, at = job.Body, job.DefRange()
	}
	if p.Group != "" {
		enter("group", p.Group) // a task may be the job's own: then its group is Nomad's to make
	}
	if p.Task != "" && !enter("task", p.Task) {
		body = f.body // or the file's
		if !enter("task", p.Task) {
			return Position{f.Name, at.Start.Line}
		}
	}
	at = find(body, at, p.Steps, p.Nth)
	return Position{f.Name, at.Start.Line}
}

// blockOf is the first block of a kind with a label, "" for any. One that a `dynamic` block makes is looked for there.
func blockOf(body *hclsyntax.Body, kind, label string) *hclsyntax.Block {
	for _, b := range body.Blocks {
		if b.Type == kind && (label == "" || len(b.Labels) > 0 && b.Labels[0] == label) {
			return b
		}
	}
	for _, b := range body.Blocks {
		if b.Type == "dynamic" && slices.Equal(b.Labels, []string{kind}) {
			for _, content := range b.Body.Blocks {
				if content.Type == "content" {
					return &hclsyntax.Block{
						Type: kind, Body: content.Body, TypeRange: b.TypeRange, LabelRanges: b.LabelRanges,
						OpenBraceRange: b.OpenBraceRange, CloseBraceRange: b.CloseBraceRange,
					}
				}
			}
		}
	}
	return nil
}

// find follows steps from a body that stands at a range.
func find(body *hclsyntax.Body, at hcl.Range, steps []string, nth int) hcl.Range {
	if len(steps) == 0 {
		return at
	}
	if attr := body.Attributes[steps[0]]; attr != nil {
		return findIn(attr.Expr, attr.NameRange, steps[1:])
	}
	var first *hclsyntax.Block
	seen := 0
	for _, b := range body.Blocks {
		if b.Type != steps[0] {
			continue
		}
		rest := steps[1:]
		if len(rest) < len(b.Labels) || !slices.Equal(b.Labels, rest[:len(b.Labels)]) {
			continue
		}
		if rest = rest[len(b.Labels):]; len(rest) > 0 { // of several, the one that has the next step
			if found := find(b.Body, b.DefRange(), rest, nth); found != b.DefRange() {
				return found
			}
			if first == nil {
				first = b
			}
			continue
		}
		if first = b; seen == nth {
			break
		}
		seen++
	}
	if first != nil {
		return first.DefRange()
	}
	return at
}

// findIn follows steps in an expression that is an object, or a list of them.
func findIn(expr hclsyntax.Expression, at hcl.Range, steps []string) hcl.Range {
	if len(steps) == 0 {
		return at
	}
	switch e := expr.(type) {
	case *hclsyntax.ParenthesesExpr:
		return findIn(e.Expression, at, steps)
	case *hclsyntax.TupleConsExpr:
		for _, one := range e.Exprs {
			if found := findIn(one, at, steps); found != at {
				return found
			}
		}
	case *hclsyntax.ObjectConsExpr:
		for _, item := range e.Items {
			if keyOf(item.KeyExpr) == steps[0] {
				return findIn(item.ValueExpr, item.KeyExpr.Range(), steps[1:])
			}
		}
	}
	return at
}

// keyOf is a key of an object that is written out; "" for one that is computed.
func keyOf(expr hclsyntax.Expression) string {
	if word := hcl.ExprAsKeyword(expr); word != "" {
		return word
	}
	if key, ok := expr.(*hclsyntax.ObjectConsKeyExpr); ok {
		expr = key.Wrapped
		if word := hcl.ExprAsKeyword(expr); word != "" {
			return word
		}
	}
	t, ok := expr.(*hclsyntax.TemplateExpr)
	if !ok || !t.IsStringLiteral() {
		return ""
	}
	v, diags := t.Value(nil)
	if diags.HasErrors() {
		return ""
	}
	return v.AsString()
}
