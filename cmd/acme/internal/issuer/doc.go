// Package issuer keeps the certificates of a configuration valid.
//
// Each certificate has a keeper. A step of it reads what is in Vault, asks the authority for its advice, and
// if the certificate is due: takes the lock, looks again, orders, writes, and gives the lock back. Whatever
// fails, what is in Vault stays as it is, and the step is repeated later. A certificate that was ordered and
// could not be written is kept and written first thing in the next step: it is not ordered again.
package issuer
