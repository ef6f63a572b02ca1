package secrets

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"
)

// Defaults and bounds of a job's options.
const (
	DefaultSplay         = 5 * time.Second
	DefaultStagger       = 10 * time.Second
	DefaultStopTimeout   = 5 * time.Second
	MaxPreStopWait       = 5 * time.Minute
	DefaultScriptTimeout = 5 * time.Second
	DefaultLiveStale     = time.Hour
	DefaultPerms         = fs.FileMode(0o400)
)

// Spec is what a task asks for, checked: Compile makes it, and what it holds needs no further
// checks but those that need the secrets themselves.
type Spec struct {
	Secrets      []Secret // by name
	Files        []File   // templates over several secrets, by path
	Role         string
	Namespace    string
	IdentityFile string
	ExposeToken  bool
	StopSignal   string
	StopTimeout  time.Duration
	// What comes before the stop of a restart in place, so that the program can finish what it is serving: a signal
	// (empty: none), and how long the stop waits then.
	PreStopSignal string
	PreStopWait   time.Duration
	RegistryAuth  *RegistryAuth // nil: the image is pulled as without secrets
	Skipped       []Skipped     // what the policies grant and nothing can be made of, whatever the server answers
}

// StopTime is how long the job lets the old process live in a restart in place.
func (s *Spec) StopTime() time.Duration { return s.PreStopWait + s.StopTimeout }

// Secret is one secret that a task asks for.
type Secret struct {
	Name      string
	Request   Request
	CSR       *CSR              // nil: the request is sent as it is
	Env       map[string]string // variable → field path
	EnvPrefix *string           // not nil: every field, so prefixed
	Files     []File            // by path
	AllFiles  bool
	Live      *LiveDir // nil: none
	LiveOnly  bool     // nothing but Live makes use of it
	PullOnly  bool     // nothing but RegistryAuth makes use of it: the task has it until its image is there
	Change    Change
	Required  bool
	Granted   bool // not declared: the task's policies grant it (Expand)
	Exact     bool // granted by a policy that names its path
}

// File is one file to be written below the task's secrets directory.
type File struct {
	Path     string // clean, relative, below the secrets directory
	Field    string // a field path; or
	Template string
	Perms    fs.FileMode
	UID, GID *int // nil: the user that the task's process runs as
	Base64   bool // the field is decoded from base64
}

// LiveDir is a directory in which the task reads a secret as it is now.
type LiveDir struct {
	Path    string        // in the container, absolute; or below the secrets directory, relative
	Listing bool          // it shows the fields' names
	Stale   time.Duration // how long a last value is served while the server is away
	Acts    bool          // the job gives this secret a change mode: it is for a change of any field, rendered or not
}

// Mode is what is done to a task when a secret of its changes.
type Mode int

// Modes in the order of their strength: of several changes at once, the strongest is done (C7).
const (
	Noop Mode = iota
	SendSignal
	RunScript
	Restart
)

// Modes are all there are.
func Modes() []Mode { return []Mode{Noop, SendSignal, RunScript, Restart} }

// String is the mode's word in a job.
func (m Mode) String() string {
	switch m {
	case Noop:
		return "noop"
	case SendSignal:
		return "signal"
	case RunScript:
		return "script"
	case Restart:
		return "restart"
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}

// Change is what to do, and how long to wait, when a secret changes.
type Change struct {
	Mode    Mode
	Signal  string
	Script  Script
	Splay   time.Duration
	Stagger time.Duration
}

// Script is run in the task, with the task's new files and env.
type Script struct {
	Command string
	Args    []string
	Timeout time.Duration
}

// Set is what a task gets: everything of its Spec, rendered from one moment's answers.
type Set struct {
	Env   map[string]Value
	Files []RenderedFile // by path
}

// Equal reports whether a task that has s needs nothing done to have o (C7).
func (s *Set) Equal(o *Set) bool { return s.SameEnv(o) && s.SameFiles(o) }

// SameEnv reports whether both have the same variables. A nil Set is an empty one.
func (s *Set) SameEnv(o *Set) bool {
	return maps.EqualFunc(s.env(), o.env(), Value.Equal)
}

// SameFiles reports whether both have the same files: content, permissions and owners.
func (s *Set) SameFiles(o *Set) bool {
	return slices.EqualFunc(s.files(), o.files(), func(a, b RenderedFile) bool {
		return a.Path == b.Path && a.Perms == b.Perms && sameID(a.UID, b.UID) && sameID(a.GID, b.GID) && a.Data.Equal(b.Data)
	})
}

func (s *Set) env() map[string]Value {
	if s == nil {
		return nil
	}
	return s.Env
}

func (s *Set) files() []RenderedFile {
	if s == nil {
		return nil
	}
	return s.Files
}

func sameID(a, b *int) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// RenderedFile is one file's content and owner.
type RenderedFile struct {
	Path     string
	Link     string // not empty: the file is root's symlink to this, and has no content
	Data     Value
	Perms    fs.FileMode
	UID, GID *int
}
