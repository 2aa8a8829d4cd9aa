/**
 * Secrets by file or systemd credential (systemd.exec(5), LoadCredential=), never from argv or the environment. Read
 * each time they are needed, so that a new one is good without a restart. Here too: what takes secrets out of whatever the
 * coordinator logs, the ones that it has read and all that look like one.
 */
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

const CREDENTIAL = 'credential:'

export function readSecret(path: string): string {
  const file = path.startsWith(CREDENTIAL) ? credentialFile(path.slice(CREDENTIAL.length)) : path
  if ((statSync(file).mode & 0o007) !== 0)
    throw new Error(`${file} holds a secret and others can use it: chmod o= ${file}`)
  const text = readFileSync(file, 'utf8').trim()
  if (text === '') throw new Error(`${file} is empty`)
  remember(text)
  return text
}

function credentialFile(name: string): string {
  const folder = process.env['CREDENTIALS_DIRECTORY']
  if (folder === undefined) throw new Error(`no systemd credentials here: ${name} needs LoadCredential= in the unit`)
  return join(folder, name)
}

/** What was read, the newest last: another system may say it back, and no form tells a client secret. */
const known = new Set<string>()
const KNOWN_MAX = 50
/** A shorter one would take words out of every text. */
const KNOWN_LENGTH_MIN = 8

function remember(secret: string): void {
  if (secret.length < KNOWN_LENGTH_MIN) return
  known.delete(secret)
  known.add(secret)
  const [oldest] = known
  if (known.size > KNOWN_MAX && oldest !== undefined) known.delete(oldest)
}

/** Keys whose values are secrets, whatever they look like. */
const SECRET_KEY = /token|secret|password|passphrase|authorization|privatekey/i
/** Each with what is kept in the place of it. */
const FORMS: readonly (readonly [RegExp, string])[] = [
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----[^]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g, '***'],
  // Tokens of smith, of Slack, of NetBox.
  [/smithp_[A-Za-z0-9_-]+|smith1\.[A-Za-z0-9_-]+/g, '***'],
  [/\bxox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]+|\bxapp-[A-Za-z0-9-]+/g, '***'],
  [/\bnbt_[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)?/g, '***'],
  // Headers, and the forms in which a client sends or a server answers a secret.
  [/\b(authorization["']?\s*[:=]\s*["']?)(?:(?:bearer|basic|token)\s+)?[^\s"',;]+/gi, '$1***'],
  [/\b(bearer|basic|token)\s+(?=\S*[0-9=])[A-Za-z0-9._~+/=-]{16,}/gi, '$1 ***'],
  [
    /\b((?:\w*(?:secret|password|passwd|passphrase)|(?:access|refresh|api)_?(?:token|key))["']?\s*[:=]\s*["']?)[^\s"',;&]+/gi,
    '$1***',
  ],
  [/\b(token["']?=["']?|token["']\s*:\s*["'])[^\s"',;&]+/gi, '$1***'],
  [/(:\/\/)[^\s/@:]+:[^\s/@]+@/g, '$1***@'],
]

/** The text without what must not be kept. */
export function scrubbed(text: string): string {
  let clean = text
  for (const secret of known) clean = clean.replaceAll(secret, '***')
  for (const [form, instead] of FORMS) clean = clean.replaceAll(form, instead)
  return clean
}

/** A record of the log as pino writes it, a line of JSON. */
export function scrubbedLine(line: string): string {
  const clean = (key: string, value: unknown) =>
    SECRET_KEY.test(key) && value !== null ? '***' : typeof value === 'string' ? scrubbed(value) : value
  try {
    return `${JSON.stringify(JSON.parse(line), clean)}\n`
  } catch {
    // No JSON is a text all the same, and must not be lost.
    return scrubbed(line)
  }
}

type Stream = { readonly write: (line: string) => unknown }

/** Whatever is logged goes to all of these, without its secrets. */
export function cleanStream(streams: readonly Stream[]): Stream {
  return {
    write: (line) => {
      const clean = scrubbedLine(line)
      for (const stream of streams) stream.write(clean)
    },
  }
}
