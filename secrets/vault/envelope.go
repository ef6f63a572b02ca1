package vault

import (
	"bytes"
	"encoding/json"
	"errors"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// envelope is what is used of an answer of the API; decode reads it.
type envelope struct {
	LeaseID       string
	LeaseDuration int64
	Renewable     bool
	Data          map[string]any
	WrapInfo      json.RawMessage
	MountType     string
	Auth          *struct {
		ClientToken   string `json:"client_token"`
		Accessor      string `json:"accessor"`
		LeaseDuration int64  `json:"lease_duration"`
		Renewable     bool   `json:"renewable"`
		TokenType     string `json:"token_type"`
		NumUses       int    `json:"num_uses"`
	}
	Errors []string
}

// decode parses an answer, its numbers as they were written. Nothing at all is an empty answer. What may be
// large in it is decoded part by part.
func decode(b []byte, to *envelope) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return errors.Join(secrets.ErrNotObject, err)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		switch key {
		case "lease_id":
			err = d.Decode(&to.LeaseID)
		case "lease_duration":
			err = d.Decode(&to.LeaseDuration)
		case "renewable":
			err = d.Decode(&to.Renewable)
		case "data":
			to.Data, err = decodeData(d)
		case "wrap_info":
			err = d.Decode(&to.WrapInfo)
		case "mount_type":
			err = d.Decode(&to.MountType)
		case "auth":
			err = d.Decode(&to.Auth)
		case "errors":
			err = d.Decode(&to.Errors)
		default:
			_, err = secrets.DecodeValue(d)
		}
		if err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// decodeData is an object, or null.
func decodeData(d *json.Decoder) (map[string]any, error) {
	v, err := secrets.DecodeValue(d)
	if err != nil || v == nil {
		return nil, err
	}
	data, ok := v.(map[string]any)
	if !ok {
		return nil, secrets.ErrNotObject
	}
	return data, nil
}
