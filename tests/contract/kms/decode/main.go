// Opens an envelope of format 1 with Go's standard library, written from docs/kms-envelope.md alone.
//
//	go run main.go KEYRING KEY_ID < ENVELOPE > PLAINTEXT
package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

const prefix = "nodeplug.internal/kms/"

type keyring struct {
	Cluster, Provider, Lineage string
	Keys                       []key
}

type key struct {
	KeyID          string `json:"key_id"`
	Version, Epoch uint32
	Secret         []byte
}

func join(parts ...[]byte) (out []byte) {
	for _, part := range parts {
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

func keyID(ring keyring, k key) (string, error) {
	lineage, err := hex.DecodeString(ring.Lineage)
	if err != nil {
		return "", err
	}
	fingerprint, err := hkdf.Key(sha256.New, k.Secret, nil, prefix+"fingerprint/v1", 32)
	if err != nil {
		return "", err
	}
	version := binary.BigEndian.AppendUint32(nil, k.Version)
	epoch := binary.BigEndian.AppendUint32(nil, k.Epoch)
	sum := sha256.Sum256(join([]byte(prefix+"key-id/v1"), []byte(ring.Cluster), lineage, fingerprint, version, epoch))
	return "np1." + base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// xaes opens XAES-256-GCM as c2sp.org/XAES-256-GCM describes it, from the block cipher up.
func xaes(secret, nonce, sealed, aad []byte) ([]byte, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	var subkey, carry [16]byte
	block.Encrypt(subkey[:], carry[:])
	for i := range 16 {
		carry[i] = subkey[i] << 1
		if i < 15 {
			carry[i] |= subkey[i+1] >> 7
		}
	}
	if subkey[0] >= 0x80 {
		carry[15] ^= 0x87
	}
	derived := make([]byte, 32)
	for i := range 2 {
		message := append([]byte{0, byte(i + 1), 'X', 0}, nonce[:12]...)
		for j := range message {
			message[j] ^= carry[j]
		}
		block.Encrypt(derived[16*i:], message)
	}
	inner, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(inner)
	if err != nil {
		return nil, err
	}
	return gcm.Open(nil, nonce[12:], sealed, aad)
}

func open(ring keyring, k key, envelope []byte) ([]byte, error) {
	if len(envelope) < 83 || len(envelope) > 1023 || envelope[0] != 0xe1 || envelope[1] != 1 {
		return nil, errors.New("not an envelope of format 1, suite 1")
	}
	slot := sha256.Sum256(join([]byte(prefix+"slot/v1"), []byte(k.KeyID)))
	if !bytes.Equal(envelope[2:10], slot[:8]) {
		return nil, errors.New("the envelope is of another key")
	}
	context := join([]byte(prefix+"envelope/v1"), envelope[:2], []byte(ring.Cluster), []byte(ring.Provider), []byte(k.KeyID))
	derived, err := hkdf.Key(sha256.New, k.Secret, nil, string(context), 64)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(envelope[34:66], derived[32:]) {
		return nil, errors.New("the commitment differs")
	}
	return xaes(derived[:32], envelope[10:34], envelope[66:], context)
}

func run() error {
	data, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	var ring keyring
	if err := json.Unmarshal(data, &ring); err != nil {
		return err
	}
	envelope, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	for _, k := range ring.Keys {
		if id, err := keyID(ring, k); err != nil || id != k.KeyID {
			return fmt.Errorf("key_id %s is not derived as documented: %v", k.KeyID, err)
		}
		if k.KeyID == os.Args[2] {
			plaintext, err := open(ring, k, envelope)
			if err == nil {
				_, err = os.Stdout.Write(plaintext)
			}
			return err
		}
	}
	return errors.New("no such key_id")
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
