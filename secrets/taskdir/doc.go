// Package taskdir does what root has to do in a task's directories, which the task can write to: it reads the tokens
// that Nomad puts into private/, and publishes the task's files in secrets/.
//
// Both directories are hostile. Nomad makes them world-writable, so any process that reaches them may plant, rename and
// replace what it likes, at any moment. Therefore:
//   - A directory is opened once, without following a symlink, and everything in it is reached through that descriptor
//     (an os.Root, or package beneath).
//   - What was opened is checked (type, links, owner) before it is believed.
//   - Files are made with O_EXCL and given away by their descriptor.
//   - What a task can grow (names, trees) is read and removed in bounded steps.
//
// What a task can do is spoil its own files.
package taskdir
