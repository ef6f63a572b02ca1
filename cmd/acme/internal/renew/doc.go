// Package renew decides when: when a certificate is due, when the authority is asked for its advice again,
// when a failed attempt is repeated, and which orders may run at once. Nothing in it waits or asks.
package renew
