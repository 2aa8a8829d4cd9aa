/**
 * The keys that sign the test archive, by openpgp.js, so that no gpg is needed. Called by archive.ts and by tests that
 * want a stranger's key. The form is the one that both gpgv (Debian 12) and sqv (Debian 13) accept: a version 4
 * Ed25519 primary key that signs itself, SHA-512, and no subkey.
 */
import { type PrivateKey, createCleartextMessage, createMessage, generateKey, readPrivateKey, sign } from 'openpgp'

export type SigningKey = {
  /** What `Signed-By` points to, ASCII-armoured. */
  readonly publicArmored: string
  /** What `readSigningKey` takes, for an archive that outlives its process. */
  readonly privateArmored: string
  readonly signClear: (text: string, at: Date) => Promise<string>
  readonly signDetached: (text: string, at: Date) => Promise<string>
}

/** Before any Release that a test may want to have published. */
const KEY_MADE_AT = new Date('2020-01-01T00:00:00Z')
/** The same text, key and date give the same signature. */
const config = { nonDeterministicSignaturesViaNotation: false }

/** Makes a new key; `expiresAt` makes one that has run out, or will. */
export async function createSigningKey(options: { name?: string; expiresAt?: Date } = {}): Promise<SigningKey> {
  const lifetimeMs = options.expiresAt === undefined ? 0 : options.expiresAt.getTime() - KEY_MADE_AT.getTime()
  const { privateKey } = await generateKey({
    type: 'ecc',
    curve: 'ed25519Legacy',
    userIDs: { name: options.name ?? 'smith test archive', email: 'smith@example.invalid' },
    date: KEY_MADE_AT,
    keyExpirationTime: Math.round(lifetimeMs / 1000),
    subkeys: [],
    format: 'object',
  })
  return signingKeyOf(privateKey)
}

export async function readSigningKey(privateArmored: string): Promise<SigningKey> {
  return signingKeyOf(await readPrivateKey({ armoredKey: privateArmored }))
}

function signingKeyOf(key: PrivateKey): SigningKey {
  return {
    publicArmored: key.toPublic().armor(),
    privateArmored: key.armor(),
    signClear: async (text, date) => {
      // Its last newline is the frame's (RFC 9580 section 7). The signature is over CRLF line ends whatever the file
      // has; openpgp.js writes CRLF into the text too, which no real archive does.
      const message = await createCleartextMessage({ text: text.replace(/\n$/, '') })
      return (await sign({ message, signingKeys: key, date, config })).replaceAll('\r\n', '\n')
    },
    signDetached: async (text, date) =>
      sign({ message: await createMessage({ text }), signingKeys: key, detached: true, date, config }),
  }
}
