package main

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

const (
	wrappedRun = `{"Action":"run","Test":"TestA"}
{"Action":"run","Test":"TestA/one"}
{"Action":"pass","Test":"TestA/one"}
{"Action":"run","Test":"TestA/two"}
{"Action":"pass","Test":"TestA/two"}
{"Action":"pass","Test":"TestA"}
{"Action":"run","Test":"TestB"}
{"Action":"output","Test":"TestB","Output":"no network\n"}
{"Action":"fail","Test":"TestB"}
{"Action":"run","Test":"TestC"}
{"Action":"skip","Test":"TestC"}
{"Action":"fail"}
`
	note = "a difference of ours"
)

func parsed(t *testing.T, run string) outcomes {
	t.Helper()
	o, err := parse(strings.NewReader(run))
	must.NoError(t, err)
	return o
}

func TestTheSame(t *testing.T) {
	c := compare(parsed(t, wrappedRun), parsed(t, wrappedRun), nil)
	must.SliceEmpty(t, c.differing)
	must.Eq(t, map[string][]string{"pass": {"TestA/two", "TestA/one", "TestA"}, "fail": {"TestB"}, "skip": {"TestC"}}, c.alike)
}

// One part that fails is a difference, and so is the test that it is part of, unless it is documented.
func TestAPartFails(t *testing.T) {
	ours := parsed(t, strings.NewReplacer(`"pass","Test":"TestA/two"`, `"fail","Test":"TestA/two"`, `"pass","Test":"TestA"`, `"fail","Test":"TestA"`).Replace(wrappedRun))
	c := compare(parsed(t, wrappedRun), ours, nil)
	must.Eq(t, []difference{{"TestA/two", "pass", "fail", ""}, {"TestA", "pass", "fail", ""}}, c.differing)

	c = compare(parsed(t, wrappedRun), ours, map[string]string{"TestA/two": note})
	must.SliceEmpty(t, c.differing)
	must.Eq(t, []difference{{"TestA/two", "pass", "fail", note}}, c.expected)

	c = compare(parsed(t, wrappedRun), ours, map[string]string{"TestA/one": note})
	must.SliceLen(t, 3, c.differing, must.Sprint("what is documented did not happen"))
}

// Of what is run once more the second run counts, with all its parts.
func TestRunOnceMore(t *testing.T) {
	first := parsed(t, strings.Replace(wrappedRun, `"fail","Test":"TestB"`, `"pass","Test":"TestB"`, 1)+`{"Action":"fail","Test":"TestB/gone"}`)
	c := compare(parsed(t, wrappedRun), first, nil)
	must.EqOp(t, "^(TestB)$", c.pattern())
	must.Eq(t, []string{"TestB"}, first.replace(outcomes{"TestB": "fail"}))
	must.EqOp(t, "", compare(parsed(t, wrappedRun), first, nil).pattern())
}

// A run that ends in the middle differs by every test that it did not end.
func TestARunThatEnds(t *testing.T) {
	ours, _, _ := strings.Cut(wrappedRun, `{"Action":"pass","Test":"TestA"}`)
	c := compare(parsed(t, wrappedRun), parsed(t, ours), nil)
	must.Eq(t, []difference{{"TestC", "skip", "not run", ""}, {"TestB", "fail", "not run", ""}, {"TestA", "pass", unfinished, ""}}, c.differing)
}

// What passes with ours alone is a difference, too.
func TestOnlyOursPasses(t *testing.T) {
	ours := parsed(t, strings.Replace(wrappedRun, `"fail","Test":"TestB"`, `"pass","Test":"TestB"`, 1))
	c := compare(parsed(t, wrappedRun), ours, nil)
	must.Eq(t, []difference{{"TestB", "fail", "pass", ""}}, c.differing)
}
