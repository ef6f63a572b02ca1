package secrets

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
)

// Limits of one template.
const (
	maxTemplateOutput = 1 << 20
	maxTemplateTime   = time.Second
)

const (
	// maxTemplateActions bounds what is parsed of a template: each two bytes of it may take a hundred.
	maxTemplateActions = 64 << 10
	// maxTemplatesMade is what functions may make for all of a task's templates, and largeTemplates what
	// beyond which one task at a time does.
	maxTemplatesMade = 16 << 20
	largeTemplates   = 2 << 20
)

// maxTemplateCalls is how deep templates may call templates: text/template alone would go on until
// the process's memory ends.
const maxTemplateCalls = 200

// Names of the functions that rewrite puts into a template. Calling them does no harm.
const (
	fnTick  = "_tick"
	fnEnter = "_enter"
	fnLeave = "_leave"
	fnEmit  = "_emit"
	fnSmall = "_small"
)

// templateRun is one execution of one template. A job's author must not be able to stop or exhaust
// the plugin, which serves all tasks of a node, and text/template cannot be interrupted: so the parse
// tree is rewritten to call back at every place where time can pass (see rewrite), every function's
// arguments and results are weighed (see functions), and the output is counted. With that no goroutine
// is needed: execution ends by itself.
type templateRun struct {
	deadline time.Time
	late     error // what it is when the deadline has passed
	room     int   // bytes of output left
	full     error // what it is when there is none
	budget   int   // bytes that functions may still make
	calls    int   // templates that are within one another now
	large    *turn // nil: what functions make is little, or nobody else's
	funcs    template.FuncMap
}

// Reasons for which a run ends itself.
var (
	errTemplateTime   = Limitf("it runs for longer than %s", maxTemplateTime)
	errTemplateOutput = Limitf("its output is longer than %d MiB", maxTemplateOutput>>20)
	errTemplateWeight = Limitf("a value in it grows too large")
	errTemplateCalls  = Limitf("its templates call one another more than %d deep", maxTemplateCalls)
	errTemplateNull   = errors.New("the value is null")
	errTemplateKey    = errors.New("nothing by that name is there")

	errTemplatesTime   = Limitf("the task's templates together run for longer than %s", maxTemplatesTime)
	errTemplatesOutput = Limitf("the output of the task's templates is longer than %d MiB together", maxTemplatesOutput>>20)
	errTemplatesBusy   = &Error{Kind: Outage, Err: errors.New("large templates of other tasks are being rendered; tried again"), Elsewhere: true}
)

// newTemplateRun is a run that has all of one template's limits to itself.
func newTemplateRun(deadline time.Time) *templateRun {
	r := &templateRun{
		deadline: deadline, late: errTemplateTime,
		room: maxTemplateOutput, full: errTemplateOutput,
		budget: maxTemplatesMade,
	}
	r.funcs = r.functions()
	return r
}

// render renders src over data, whose numbers it changes.
func (r *templateRun) render(src string, data map[string]any) (Value, error) {
	t, err := parseTemplate(src, r)
	if err != nil {
		return Value{}, err
	}
	var out strings.Builder
	if err := t.Execute(&limitedWriter{run: r, w: &out}, withNumbers(data)); err != nil {
		return Value{}, execError(err)
	}
	return TextValue(out.String()), nil
}

// templateName is the template's name inside text/template. Its messages begin with it, and so it
// must hold nothing that could be taken for a part of them.
const templateName = "template"

func parseTemplate(src string, run *templateRun) (*template.Template, error) {
	if len(src) > maxTemplateOutput {
		return nil, Limitf("the template is longer than %d MiB", maxTemplateOutput>>20)
	}
	if n := actionBytes(src); n > maxTemplateActions {
		return nil, Limitf("the template's actions, all between {{ and }}, are longer than %d KiB", maxTemplateActions>>10)
	}
	t, err := template.New(templateName).Option("missingkey=error").Funcs(run.funcs).Parse(src)
	if err != nil {
		return nil, parseError(err)
	}
	for _, each := range t.Templates() {
		if each.Tree != nil && each.Root != nil {
			rewriteBody(each.Root)
		}
	}
	return t, nil
}

// rewriteBody makes a template's body count itself, so that recursion has an end.
func rewriteBody(root *parse.ListNode) {
	rewrite(root)
	nodes := append([]parse.Node{callNode(fnEnter, root.Pos)}, root.Nodes...)
	root.Nodes = append(nodes, callNode(fnLeave, root.Pos))
}

// rewrite puts a look at the clock at the head of each loop's body: loops over large numbers
// ({{range 1000000000}}) would otherwise run on with nothing to stop them. And it sends each value
// that is printed through emit.
func rewrite(list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			rewritePipe(n.Pipe)
			if len(n.Pipe.Decl) == 0 { // an assignment prints nothing
				n.Pipe.Cmds = append(n.Pipe.Cmds, callCommand(fnEmit, n.Pos))
			}
		case *parse.TemplateNode:
			rewritePipe(n.Pipe)
		case *parse.IfNode:
			rewritePipe(n.Pipe)
			rewrite(n.List)
			rewrite(n.ElseList)
		case *parse.WithNode:
			rewritePipe(n.Pipe)
			rewrite(n.List)
			rewrite(n.ElseList)
		case *parse.RangeNode:
			rewritePipe(n.Pipe)
			rewrite(n.List)
			rewrite(n.ElseList)
			n.List.Nodes = append([]parse.Node{callNode(fnTick, n.Pos)}, n.List.Nodes...)
		}
	}
}

// rewritePipe bounds the arguments of methods, which no function of ours is between: a time's Format would
// double a layout at each call. The fields of secrets are maps and text, but some functions give values
// with methods.
func rewritePipe(pipe *parse.PipeNode) {
	if pipe == nil {
		return
	}
	var cmds []*parse.CommandNode
	for i, cmd := range pipe.Cmds {
		method := false
		switch cmd.Args[0].(type) {
		case *parse.FieldNode, *parse.ChainNode, *parse.VariableNode:
			method = len(cmd.Args) > 1 || i > 0
		}
		if method && i > 0 { // the value piped in is an argument, too
			cmds = append(cmds, callCommand(fnSmall, cmd.Pos))
		}
		cmds = append(cmds, cmd)
		for j, arg := range cmd.Args {
			switch arg := arg.(type) {
			case *parse.PipeNode:
				rewritePipe(arg)
			case *parse.ChainNode:
				if inner, ok := arg.Node.(*parse.PipeNode); ok {
					rewritePipe(inner)
				}
			case *parse.NumberNode, *parse.BoolNode, *parse.NilNode:
				continue // as small as they are written, and of the type that the method takes
			}
			if method && j > 0 {
				cmd.Args[j] = smallNode(arg)
			}
		}
	}
	pipe.Cmds = cmds
}

func smallNode(arg parse.Node) parse.Node {
	cmd := callCommand(fnSmall, arg.Position())
	cmd.Args = append(cmd.Args, arg)
	return &parse.PipeNode{NodeType: parse.NodePipe, Pos: arg.Position(), Cmds: []*parse.CommandNode{cmd}}
}

func callNode(fn string, pos parse.Pos) *parse.ActionNode {
	return &parse.ActionNode{
		NodeType: parse.NodeAction,
		Pos:      pos,
		Pipe: &parse.PipeNode{
			NodeType: parse.NodePipe,
			Pos:      pos,
			Cmds:     []*parse.CommandNode{callCommand(fn, pos)},
		},
	}
}

func callCommand(fn string, pos parse.Pos) *parse.CommandNode {
	return &parse.CommandNode{
		NodeType: parse.NodeCommand,
		Pos:      pos,
		Args:     []parse.Node{parse.NewIdentifier(fn).SetPos(pos)},
	}
}

// tick ends a run whose time is over.
func (r *templateRun) tick() (string, error) {
	if time.Now().After(r.deadline) {
		return "", r.late
	}
	return "", nil
}

// maxMethodText is the longest text that a method gets.
const maxMethodText = 1 << 10

// small passes on what a method may have for an argument.
func (r *templateRun) small(v any) (any, error) {
	if s, ok := v.(string); ok && len(s) > maxMethodText {
		return nil, errTemplateWeight
	}
	if _, err := r.tick(); err != nil {
		return nil, err
	}
	return v, nil
}

// makes counts what a function made.
func (r *templateRun) makes(n int) error {
	if n > r.budget {
		return errTemplateWeight
	}
	r.budget -= n
	if r.large != nil && maxTemplatesMade-r.budget > largeTemplates {
		return r.large.take(r.deadline)
	}
	return nil
}

func (r *templateRun) enter() (string, error) {
	if r.calls++; r.calls > maxTemplateCalls {
		return "", errTemplateCalls
	}
	return r.tick()
}

func (r *templateRun) leave() string {
	r.calls--
	return ""
}

// emit gives a value its text, the same as in a variable: objects and lists as JSON. A null is an
// error: text/template would write "<no value>" where a password belongs.
func (r *templateRun) emit(v any) (string, error) {
	if v == nil {
		return "", errTemplateNull
	}
	if err := r.admit(v); err != nil {
		return "", err
	}
	switch v.(type) {
	case map[string]any, []any:
		b, err := compactJSON(v)
		return string(b), err
	}
	return fmt.Sprint(v), nil
}

// limitedWriter counts the output.
type limitedWriter struct {
	run *templateRun
	w   io.Writer
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > l.run.room {
		return 0, l.run.full
	}
	l.run.room -= len(p)
	return l.w.Write(p)
}

var (
	parseErrorText = regexp.MustCompile(`(?s)^template: template:(\d+):(?:\d+:)? (.*)$`)
	noFunction     = regexp.MustCompile(`^function "([^"]*)" not defined$`)
	execErrorText  = regexp.MustCompile(`(?s)^template: template:(\d+):\d+: executing "(?:[^"\\]|\\.)*" at (<.*?>): (.*)$`)
	noKey          = regexp.MustCompile(`^map has no entry for key "((?:[^"\\]|\\.)*)"$`)
	smallCall      = regexp.MustCompile(`\(_small ([^()]*)\)`)
	failedCall     = regexp.MustCompile(`^error calling ([A-Za-z0-9_]+): `)
)

// parseError puts text/template's message into our words. It quotes the job's own text, which is no
// secret: at this point there is no data.
func parseError(err error) error {
	m := parseErrorText.FindStringSubmatch(err.Error())
	if m == nil {
		return fmt.Errorf("template: %w", err)
	}
	if f := noFunction.FindStringSubmatch(m[2]); f != nil {
		return fmt.Errorf("template line %s: function %q is not available; templates have those that docs/templates.md lists", m[1], f[1])
	}
	if strings.HasPrefix(m[2], "bad character U+002D") { // text/template takes the dash of {{ .my-db.user }} for none of a name
		return fmt.Errorf("template line %s: %s: a name with a dash in it goes by index: {{ index . \"my-db\" \"user\" }}", m[1], m[2])
	}
	return fmt.Errorf("template line %s: %s", m[1], m[2])
}

// noKeyError is of a key that is not among a template's data.
type noKeyError string

func (e noKeyError) Error() string { return fmt.Sprintf("no field %q", string(e)) }

// execError keeps of an execution's error what cannot hold data: the line, the action's text in the
// job, and the reason only where it is one of our own or made of the job's own text. Most reasons of
// text/template and sprig quote the value that they could not use (`range can't iterate over hunter2`).
func execError(err error) error {
	kind := Invalid
	for _, own := range []error{errTemplateOutput, errTemplatesOutput} {
		if errors.Is(err, own) { // a writer's error comes without a place
			return Limitf("template: %v", own)
		}
	}
	if errors.Is(err, errTemplatesBusy) {
		return errTemplatesBusy
	}
	m := execErrorText.FindStringSubmatch(err.Error())
	if m == nil {
		return Errorf(kind, "template: it cannot be rendered (the reason is not shown: it might quote a secret)")
	}
	line, action, detail := m[1], m[2], m[3]
	reason := errors.New("this cannot be done with the values there are (the reason is not shown: it might quote a secret)")
	own := ownReason(err)
	if own != nil {
		reason = own
		if errors.Is(own, errTemplateKey) {
			kind = NotFound
		}
	} else if key := noKey.FindStringSubmatch(detail); key != nil {
		kind = NotFound
		name, err := strconv.Unquote(`"` + key[1] + `"`)
		if err != nil {
			name = key[1]
		}
		reason = noKeyError(name)
	} else if call := failedCall.FindStringSubmatch(detail); call != nil {
		reason = errors.New(call[1] + " failed (the reason is not shown: it might quote a secret)")
	}
	if strings.HasPrefix(action, "<_") {
		action = ""
	} else {
		action = " " + shorten(smallCall.ReplaceAllString(action, "$1"))
	}
	if IsLimit(own) {
		return Limitf("template line %s%s: %v", line, action, reason)
	}
	return Errorf(kind, "template line %s%s: %w", line, action, reason)
}

// shorten keeps an action's text, which may go on for lines, from filling an event.
func shorten(action string) string {
	const limit = 60
	if r := []rune(action); len(r) > limit {
		return string(r[:limit]) + "…>"
	}
	return action
}

func ownReason(err error) error {
	for _, own := range slices.Concat([]error{errTemplateTime, errTemplatesTime, errTemplateWeight, errTemplateCalls, errTemplateNull, errTemplateKey}, storeReasons) {
		if errors.Is(err, own) {
			return own
		}
	}
	return nil
}
