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
	type finding struct {
		path, name string
		always     bool
	}
	said := map[finding]bool{}
	for _, path := range slices.Sorted(maps.Keys(ours.Files)) {
		if s.config.Unknown("file", path, "template") {
			continue
		}
		uses, _ := usesOf(ours.Files[path].Template)
		for _, use := range uses {
			if _, ok := ours.Secrets[use.fields[0]]; ok || ours.FromPolicies != "" && ours.FromPolicies != "off" || s.config.Unknown("from_policies") {
				continue
			}
			f := finding{path, use.fields[0], use.always}
			if said[f] {
				continue
			}
			said[f] = true
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
			uses, _ := usesOf(f.Template)
			for _, use := range uses {
				if use.fields[0] != name {
					continue
				}
				switch {
				case len(use.fields) > 1:
					s.warnf(in("secret", name, "file", path, "template"), "secret %q: file %q: template: .%s.%s is a field %q of the secret: in a secret's own file fields go without its name, {{ .%s }}",
						name, path, name, use.fields[1], name, use.fields[1])
				case use.entered:
					s.warnf(in("secret", name, "file", path, "template"), "secret %q: file %q: template: with .%s enters a field %q of the secret: in a secret's own file fields go without its name; leave the with out",
						name, path, name, name)
				}
			}
		}
	}
}

// use is a chain of fields that a template starts from its data.
type use struct {
	fields []string
	always bool // it is looked up whatever the data is
	// entered: a with makes it the data of its body.
	entered bool
}

// usesOf reads a template, as far as it can be read. whole: it hands on all of its data, or looks in it for what it works out, so that it
// may use any of it.
func usesOf(src string) (uses []use, whole bool) {
	if src == "" {
		return nil, false
	}
	tree := parse.New("template")
	tree.Mode = parse.SkipFuncCheck
	defined := map[string]*parse.Tree{}
	if _, err := tree.Parse(src, "", "", defined); err != nil {
		return nil, false // Compile says what is wrong
	}
	w := &useWalk{defined: defined, walked: map[call]bool{}, found: map[string]int{}}
	w.list(tree.Root, scope{dot: true, dollar: true, always: true})
	return w.uses, w.whole
}

// scope is where a part of a template stands.
type scope struct {
	dot    bool // "." is the template's data, not what a range, a with or a call has made it
	dollar bool // so is "$"
	always bool // it runs whatever the data is
}

type useWalk struct {
	uses    []use
	whole   bool
	found   map[string]int // where in uses a chain is
	defined map[string]*parse.Tree
	walked  map[call]bool
}

// call is of a template that is defined in this one, and has its data. What one without has of it cannot be told here.
type call struct {
	name   string
	always bool
}

func (w *useWalk) list(l *parse.ListNode, in scope) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			w.pipe(n.Pipe, in)
		case *parse.IfNode:
			w.pipe(n.Pipe, in)
			w.branch(n.List, n.ElseList, in, in.dot)
		case *parse.WithNode:
			w.passed(n.Pipe, in)
			w.branch(n.List, n.ElseList, in, in.data(n.Pipe))
			w.enter(n, in)
		case *parse.RangeNode:
			w.pipe(n.Pipe, in)
			w.branch(n.List, n.ElseList, in, false)
		case *parse.TemplateNode:
			w.passed(n.Pipe, in)
			if in.data(n.Pipe) {
				w.call(call{n.Name, in.always})
			}
		}
	}
}

// enter notes that a with makes what the template starts from its data the data of its body, and a field of it is used there.
func (w *useWalk) enter(n *parse.WithNode, in scope) {
	if len(n.Pipe.Cmds) != 1 || len(n.Pipe.Cmds[0].Args) != 1 {
		return
	}
	fields := in.fields(n.Pipe.Cmds[0].Args[0])
	inside := &useWalk{defined: w.defined, walked: map[call]bool{}, found: map[string]int{}}
	inside.list(n.List, scope{dot: true})
	if i, ok := w.found[fmt.Sprintf("%q", fields)]; ok && len(inside.uses) > 0 {
		w.uses[i].entered = true
	}
}

// fields are those that a node starts from the template's data.
func (in scope) fields(n parse.Node) []string {
	switch n := n.(type) {
	case *parse.FieldNode:
		if in.dot {
			return n.Ident
		}
	case *parse.VariableNode:
		if in.dollar && n.Ident[0] == "$" {
			return n.Ident[1:]
		}
	}
	return nil
}

// branch walks what is done if a value is true, where inner says whether "." is the data, and what is done if not.
func (w *useWalk) branch(then, otherwise *parse.ListNode, in scope, inner bool) {
	in.always = false
	w.list(otherwise, in)
	in.dot = inner
	w.list(then, in)
}

// call walks a template that gets the data: there "." and "$" are both what it is called with. Once is enough, and so one that calls
// itself has an end.
func (w *useWalk) call(c call) {
	tree := w.defined[c.name]
	if tree == nil || w.walked[c] {
		return
	}
	w.walked[c] = true
	w.list(tree.Root, scope{dot: true, dollar: true, always: c.always})
}

// passed walks a value that is "." in what follows. The data itself is not used by that, unless it gets a name.
func (w *useWalk) passed(p *parse.PipeNode, in scope) {
	if p != nil && (len(p.Decl) > 0 || !in.data(p)) {
		w.pipe(p, in)
	}
}

func (w *useWalk) pipe(p *parse.PipeNode, in scope) {
	if p == nil {
		return
	}
	for i, c := range p.Cmds {
		fn := ""
		if id, ok := c.Args[0].(*parse.IdentifierNode); ok {
			fn = id.Ident
		}
		for n, arg := range c.Args {
			if fn == "index" && n == 1 && in.data(arg) {
				continue // index looks at it
			}
			each := in
			each.always = in.always && (n < 2 || fn != "and" && fn != "or") // these look at the first of theirs, and not at all others
			w.arg(arg, each)
		}
		if fn == "index" {
			args := c.Args[1:]
			if i > 0 { // what is piped in is the last
				if before := p.Cmds[i-1].Args; len(before) == 1 {
					args = append(args[:len(args):len(args)], before[0])
				}
			}
			w.index(args, in)
		}
	}
}

// index is a use by Go's function of this name: of the data, by keys that are written out.
func (w *useWalk) index(args []parse.Node, in scope) {
	if len(args) == 0 {
		return
	}
	fields := slices.Clone(in.fields(args[0]))
	if len(fields) == 0 && !in.data(args[0]) {
		return
	}
	for _, arg := range args[1:] {
		key, ok := arg.(*parse.StringNode)
		if !ok {
			break
		}
		fields = append(fields, key.Text)
	}
	if len(fields) == 0 {
		w.whole = true
		return
	}
	w.add(fields, in.always)
}

func (w *useWalk) arg(n parse.Node, in scope) {
	switch n := n.(type) {
	case *parse.DotNode:
		w.whole = w.whole || in.dot
	case *parse.FieldNode:
		if in.dot {
			w.add(n.Ident, in.always)
		}
	case *parse.VariableNode:
		w.whole = w.whole || in.data(n)
		if in.dollar && n.Ident[0] == "$" && len(n.Ident) > 1 {
			w.add(n.Ident[1:], in.always)
		}
	case *parse.PipeNode:
		w.pipe(n, in)
	case *parse.ChainNode:
		if in.data(n.Node) {
			w.add(n.Field, in.always)
		} else {
			w.arg(n.Node, in)
		}
	}
}

// data reports whether a node is the template's data, as it is.
func (in scope) data(n parse.Node) bool {
	switch n := n.(type) {
	case *parse.DotNode:
		return in.dot
	case *parse.VariableNode:
		return in.dollar && len(n.Ident) == 1 && n.Ident[0] == "$"
	case *parse.PipeNode:
		return n != nil && len(n.Cmds) == 1 && len(n.Cmds[0].Args) == 1 && in.data(n.Cmds[0].Args[0])
	}
	return false
}

// add notes a use, once.
func (w *useWalk) add(fields []string, always bool) {
	key := fmt.Sprintf("%q", fields)
	i, ok := w.found[key]
	if !ok {
		i = len(w.uses)
		w.found[key] = i
		w.uses = append(w.uses, use{fields: fields})
	}
	w.uses[i].always = w.uses[i].always || always
}
