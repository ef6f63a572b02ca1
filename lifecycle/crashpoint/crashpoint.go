// Package crashpoint names the steps between which the plugin may be killed without losing a task or
// a lease (E2). In a plugin built with the tag crashtest, [Reached] kills the process at a step that
// a test has asked for; in any other it is empty, and inlined away.
//
// The test puts an empty file, named after the point, into a directory beside the plugin's file, named
// as that file with [DirSuffix]: POINT for whichever task comes first, POINT@TASK for one task. The
// plugin moves the file into "hit" below that, as POINT@TASK, and dies; so the process that Nomad
// starts after it goes on.
package crashpoint

// DirSuffix is what the name of the directory has after that of the plugin's file.
const DirSuffix = ".crashpoints"

// Point is a step that has just been done.
type Point string

// The start of a task. Those from LoginAnswered to FilesPublished, and InnerStarted, are passed in a
// rotation, too.
const (
	LeftoversRemoved  Point = "leftovers-removed"  // an earlier start's process and journal are away
	IntentJournalled  Point = "intent-journalled"  //
	LoginAnswered     Point = "login-answered"     // the server made a token that nothing names yet
	TokenJournalled   Point = "token-journalled"   //
	SecretAnswered    Point = "secret-answered"    // the server made a lease that nothing names yet
	LeaseJournalled   Point = "lease-journalled"   //
	SecretsJournalled Point = "secrets-journalled" // rendered, and all in the journal
	FilesPublished    Point = "files-published"    //
	InnerStarted      Point = "inner-started"      // the wrapped driver's StartTask is done
	Released          Point = "released"           // docker: the launcher runs the program
	HandleNoted       Point = "handle-noted"       // the journal names the process
	Watching          Point = "watching"           // Nomad has no answer yet
)

// The life of a task.
const (
	RenewalAnswered   Point = "renewal-answered"   // of a lease
	RenewalJournalled Point = "renewal-journalled" //
	TokenRenewed      Point = "token-renewed"      // answered, and not in the journal
	LoggedInAgain     Point = "logged-in-again"    // the new token is in the journal, the old in use
	TokenPending      Point = "token-pending"      // the old token is pending, and still in the journal

	RotationJournalled Point = "rotation-journalled" // the new secrets are there, and not applied
	RotationPublished  Point = "rotation-published"  // the files are the new ones
	SwapNoted          Point = "swap-noted"          // the journal says that the process is replaced
	OldStopped         Point = "old-stopped"         //
	OldDestroyed       Point = "old-destroyed"       //
	NewNoted           Point = "new-noted"           // the journal names the new process
	RotationApplied    Point = "rotation-applied"    // nothing is left of the rotation but to revoke the old
	OldRetired         Point = "old-retired"         // the old are to be revoked; the journal still has the rotation
	LeasePending       Point = "lease-pending"       // the old lease is pending, and still in the journal
)

// The end of a task, and its pending revocations.
const (
	StopAsked         Point = "stop-asked"         // Nomad wants the task stopped
	ExitSeen          Point = "exit-seen"          // the process has ended
	JournalPending    Point = "journal-pending"    // the journal is a pending revocation
	RevocationDone    Point = "revocation-done"    // the server has revoked it, it is still pending
	RevocationRemoved Point = "revocation-removed" //
	Destroyed         Point = "destroyed"          // all is gone, Nomad has no answer yet
)

// Recovery.
const (
	JournalRead    Point = "journal-read"    // the secrets are recovered
	InnerRecovered Point = "inner-recovered" // the process is
	Recovered      Point = "recovered"       // Nomad has no answer yet
)

// All is every point.
var All = []Point{
	LeftoversRemoved, IntentJournalled, LoginAnswered, TokenJournalled, SecretAnswered, LeaseJournalled, SecretsJournalled,
	FilesPublished, InnerStarted, Released, HandleNoted, Watching,
	RenewalAnswered, RenewalJournalled, TokenRenewed, LoggedInAgain, TokenPending,
	RotationJournalled, RotationPublished, SwapNoted, OldStopped, OldDestroyed, NewNoted, OldRetired, RotationApplied, LeasePending,
	StopAsked, ExitSeen, JournalPending, RevocationDone, RevocationRemoved, Destroyed,
	JournalRead, InnerRecovered, Recovered,
}
