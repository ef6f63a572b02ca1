// Package pull is about the pull of a task's image from its registry, in front of the wrapped docker driver: which
// registry an image is of, and whose turn it is to pull it.
package pull
