// Package secrets knows what a task asks for, how it is fetched and how the task gets it. It knows
// nothing of time passing: when to fetch anew is the lifecycle package's.
//
// One task's secrets go through it so:
//
//	TaskConfig ── Compile ──▶ Spec ── a provider, once a secret ──▶ Answers ── Fit ──▶ Set ── Publisher ──▶ files
//	                                                                                     └── Env ──▶ the driver
//
// Compile checks the job's configuration before any request: it refuses bad names (S4), file paths that leave the
// secrets directory (S5), the server's own ends as paths, and templates that do not parse. All
// problems come in one error, of kind Invalid.
//
// Before Compile, Expand may add to a task's configuration what its token's policies grant (from_policies): a
// Discovery, which the server's own account of the policies is the ground of. No write is made for it, and
// nothing is read that would make a credential. Nobody wrote what it finds into the job, so it is never the job's
// problem: Expand, Compile and Fit leave out what has no name, no path or no room of its own, and say so.
//
// A provider is where secrets are kept; what one does is an interface of the lifecycle's, which asks it, and what it
// is asked and answers is here (provider.go). A provider's errors are of the kinds in
// errors.go, which say what helps: waiting, asking anew, or a person.
//
// Fit makes variables and files of the answers. It is a pure function, and repeatable: the same answers
// give a Set that is Equal, so that an unchanged secret changes nothing (C7). Values are bytes (S7).
// Templates are hermetic and bounded in time, output and memory: a job's author cannot read the plugin's
// environment with one, nor stop the plugin, which serves all tasks of the node (see templateRun).
//
// What one task may ask for and be given is bounded throughout (S8, limits.go): the plugin serves all tasks of
// the node. Answers are bounded before they are decoded, text is shared and not copied, and what is listed in
// an error or an event is cut (text.go).
//
// A Publisher (package taskdir) writes a Set's files as one set (S6) into a directory that the task may write to, and so
// trusts nothing in there (S5), nor looks at all of it (S8).
//
// What holds throughout:
//   - L4: secrets travel in Value and Fields, which print as [redacted]. Their content leaves by
//     Value.Bytes, Value.Text and Fields.WriteJSON only.
//   - No error quotes a secret. Names of fields are no secrets and help to find a mistyped one.
package secrets
