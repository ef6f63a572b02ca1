package secrets

import (
	"time"

	"golang.org/x/sys/unix"
)

// defaults are what the config level says of every secret's change.
func (k *compiler) defaults(c TaskConfig) Change {
	def := Change{Mode: Restart}
	if c.ChangeMode != "" {
		def.Mode = k.mode("", c.ChangeMode)
	}
	def.Splay = k.duration("", "splay", c.Splay, DefaultSplay)
	def.Stagger = k.duration("", "stagger", c.Stagger, DefaultStagger)
	return def
}

func (k *compiler) change(place string, c *SecretConfig, def Change) Change {
	ch := def
	if c.ChangeMode != "" {
		ch.Mode = k.mode(place, c.ChangeMode)
	}
	ch.Splay = k.duration(place, "splay", c.Splay, def.Splay)
	ch.Stagger = k.duration(place, "stagger", c.Stagger, def.Stagger)

	switch {
	case c.ChangeSignal != "" && ch.Mode != SendSignal:
		k.badf(place, `change_signal is for change_mode "signal", and the mode is %q; set the mode, or take it out`, ch.Mode)
	case c.ChangeSignal != "":
		k.signal(place, "change_signal", c.ChangeSignal)
		ch.Signal = c.ChangeSignal
	case ch.Mode == SendSignal:
		k.badf(place, `change_mode "signal" needs a change_signal, such as "SIGHUP"`)
	}
	switch {
	case c.ChangeScript != nil && ch.Mode != RunScript:
		k.badf(place, `change_script is for change_mode "script", and the mode is %q; set the mode, or take it out`, ch.Mode)
	case c.ChangeScript != nil:
		if c.ChangeScript.Command == "" {
			k.badf(place, "change_script has no command; give the program to run in the task")
		}
		ch.Script = Script{
			Command: c.ChangeScript.Command,
			Args:    c.ChangeScript.Args,
			Timeout: k.duration(place+": change_script", "timeout", c.ChangeScript.Timeout, DefaultScriptTimeout),
		}
		if c.ChangeScript.Timeout != "" && ch.Script.Timeout == 0 {
			k.badf(place, "change_script: timeout is 0; give the script some time, such as 5s")
		}
	case ch.Mode == RunScript:
		k.badf(place, `change_mode "script" needs a change_script block with a command`)
	}
	return ch
}

func (k *compiler) mode(place, word string) Mode {
	for m := Noop; m <= Restart; m++ {
		if word == m.String() {
			return m
		}
	}
	k.badf(place, "change_mode %q is not known; use restart, signal, script or noop", word)
	return Restart
}

func (k *compiler) signal(place, key, name string) {
	if unix.SignalNum(name) == 0 {
		k.badf(place, `%s %q is not a signal; use a name such as "SIGHUP"`, key, name)
	}
}

// duration of a key, or its default where the job says nothing.
func (k *compiler) duration(place, key, text string, def time.Duration) time.Duration {
	if text == "" {
		return def
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		k.badf(place, `%s %q is not a duration; use a number with a unit, such as "5s"`, key, text)
		return def
	}
	if d < 0 {
		k.badf(place, "%s %q is below 0; use 0s or more", key, text)
		return def
	}
	return d
}
