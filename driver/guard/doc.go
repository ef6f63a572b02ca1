// Package guard is what stands in front of the wrapped drivers where newer ones of Nomad's are safer, so that no task
// can do through ours what the agent's own driver would refuse.
//
// A task owns the directories that the wrapped drivers work in, as root, by name: whatever is looked at by
// its name is another thing a moment later. So nothing here is checked and then named. A file is opened
// (O_PATH), the open file is checked, and what is handed on is a path that only root can change: a bind mount
// of that very file in a directory of root's ([Pins]).
//
//   - [Modes] decides which namespaces of the host a container may use (CVE-2026-14373).
//   - [Volume] and [Mount] read what a container is to have bound, and [Resolve] opens it
//     (CVE-2026-14891).
//   - [OpenFIFO] opens a task's log FIFO (CVE-2026-6959), [LogDir] the directory that containers get
//     read-only.
//   - [HardenTaskDir] keeps the host's users from replacing what root opens by name in a task's directory, and
//     [Source.RootOpens] says which directories containers get read-only for that: the sticky bit holds back no root of a container.
package guard
