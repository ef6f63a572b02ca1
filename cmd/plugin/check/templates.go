package check

import (
	"fmt"
	"maps"
	"slices"
	"text/template/parse"
)

// templates looks at what templates name: in a file of the task's, secrets; in a file of a secret's, its fields, which
// only the server knows.
func (s *subject) templates() {
	ours := s.config.Ours
	for _, path := range slices.Sorted(maps.Keys(ours.Files)) {
		if s.config.Unknown("file", path, "template") {
			continue
		}
		for _, use := range usesOf(ours.Files[path].Template) {
			if _, ok := ours.Secrets[use.fields[0]]; ok || ours.FromPolicies != "" && ours.FromPolicies != "off" {
				continue
			}
			steps := in("file", path, "template")
			if use.always {
				s.errorf(steps, "file %q: template: there is no secret %q: here secrets go by their name, {{ .NAME.field }}", path, use.fields[0])
			} else {
				s.warnf(steps, "file %q: template: there is no secret %q: here secrets go by their name, {{ .NAME.field }}", path, use.fields[0])
			}
		}
	}
	for name, c := range ours.Secrets {
		for path, f := range c.Files {
			for _, use := range usesOf(f.Template) {
				if use.fields[0] == name && len(use.fields) > 1 {
					s.warnf(in("secret", name, "file", path, "template"), "secret %q: file %q: template: .%s.%s is a field %q of the secret: in a secret's own file fields go without its name, {{ .%s }}",
						name, path, name, use.fields[1], name, use.fields[1])
				}
			}
		}
	}
}

// use is a chain of fields that a template starts from its data.
type use struct {
	fields []string
	always bool // it is looked up whatever the data is
}

// usesOf reads a template, as far as it can be read.
func usesOf(src string) (uses []use) {
	if src == "" {
		return nil
	}
	tree := parse.New("template")
	tree.Mode = parse.SkipFuncCheck
	all := map[string]*parse.Tree{}
	if _, err := tree.Parse(src, "", "", all); err != nil {
		return nil // Compile says what is wrong
	}
	w := &useWalk{seen: map[string]bool{}}
	w.list(tree.Root, true, true)
	return w.uses
}

type useWalk struct {
	uses []use
	seen map[string]bool
}

// list walks nodes. dot: "." is the template's data, not what a range or with has made it. always: they run whatever the data is.
func (w *useWalk) list(l *parse.ListNode, dot, always bool) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			w.pipe(n.Pipe, dot, always)
		case *parse.IfNode:
			w.branch(n.Pipe, n.List, n.ElseList, dot, dot, always)
		case *parse.WithNode:
			w.branch(n.Pipe, n.List, n.ElseList, false, dot, always)
		case *parse.RangeNode:
			w.branch(n.Pipe, n.List, n.ElseList, false, dot, always)
		case *parse.TemplateNode:
			w.pipe(n.Pipe, dot, always)
		}
	}
}

func (w *useWalk) branch(p *parse.PipeNode, then, otherwise *parse.ListNode, inner, outer, always bool) {
	w.pipe(p, outer, always)
	w.list(then, inner, false)
	w.list(otherwise, outer, false)
}

func (w *useWalk) pipe(p *parse.PipeNode, dot, always bool) {
	if p == nil {
		return
	}
	for _, c := range p.Cmds {
		// `and` and `or` do not look at all of theirs, and `index` takes a name.
		fn, isFn := c.Args[0].(*parse.IdentifierNode)
		lazy := isFn && (fn.Ident == "and" || fn.Ident == "or")
		for _, arg := range c.Args {
			w.arg(arg, dot, always && !lazy)
		}
	}
}

func (w *useWalk) arg(n parse.Node, dot, always bool) {
	switch n := n.(type) {
	case *parse.FieldNode:
		if dot {
			w.add(n.Ident, always)
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" && len(n.Ident) > 1 {
			w.add(n.Ident[1:], always)
		}
	case *parse.PipeNode:
		w.pipe(n, dot, always)
	case *parse.ChainNode:
		w.arg(n.Node, dot, always)
	}
}

func (w *useWalk) add(fields []string, always bool) {
	key := fmt.Sprint(fields, always)
	if !w.seen[key] {
		w.seen[key] = true
		w.uses = append(w.uses, use{fields, always})
	}
}
