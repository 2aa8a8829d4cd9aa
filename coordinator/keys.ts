/**
 * The coordinator's two keys: the TLS key, by which agents and people know it (they pin its public half, not the
 * certificate), and the order key, which alone gives a grant its authority. Both lie in files of their own, never in
 * the database. They are made together, in a folder that gets its name only when it is whole; later nothing is made
 * again but the certificate, and only around the same key. main calls it before anything listens.
 */
// First, since the certificate library throws without its effect.
import 'reflect-metadata'
import * as x509 from '@peculiar/x509'
import {
  type KeyObject,
  X509Certificate,
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  sign,
  webcrypto,
} from 'node:crypto'
import {
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { isIP } from 'node:net'
import { dirname, join } from 'node:path'
import { type Refusal, RefusedError } from '../protocol/errors.ts'
import type { Clock, Random } from './ports.ts'

export type Keys = {
  /** PEM, for node:tls. */
  readonly tls: { readonly key: string; readonly cert: string }
  /** SHA-256 of the TLS public key (SPKI, DER), base64url: what enrolment tokens carry. */
  readonly pin: string
  readonly orderKey: {
    readonly sign: (bytes: Uint8Array) => Buffer
    /** SHA-256 of the verifying key (SPKI, DER), hexadecimal. */
    readonly keyId: string
    /** SPKI in DER, base64. */
    readonly publicKeyBase64: string
  }
}

export type KeyOptions = {
  readonly dir: string
  readonly instance: string
  /** Host names and addresses that clients may use, besides localhost. */
  readonly names: readonly string[]
  readonly clock: Pick<Clock, 'wallNow'>
  readonly random: Random
}

const FILES = { tlsKey: 'tls.key.pem', tlsCert: 'tls.cert.pem', orderKey: 'order.key.pem' } as const
const DAY_MS = 86_400_000
const CERT_LIFE_MS = 3650 * DAY_MS
/** A certificate with less than this left is made anew at the next start. */
const CERT_REST_MS_MIN = 365 * DAY_MS

/** Reads the keys, or makes them when there are none; throws a RefusedError for what is half there or open to others. */
export async function loadOrCreateKeys(options: KeyOptions): Promise<Keys> {
  if (!existsSync(options.dir)) await createKeys(options)
  assertPrivate(options.dir, 0o077)
  const tlsKey = readKey(options.dir, FILES.tlsKey, 'ec')
  const orderKey = readKey(options.dir, FILES.orderKey, 'ed25519')
  const cert = await currentCertificate(options, tlsKey)
  const orderSpki = spkiOf(orderKey)
  return {
    tls: { key: pemOf(tlsKey), cert },
    pin: createHash('sha256').update(spkiOf(tlsKey)).digest('base64url'),
    orderKey: {
      sign: (bytes) => sign(null, bytes, orderKey),
      keyId: createHash('sha256').update(orderSpki).digest('hex'),
      publicKeyBase64: orderSpki.toString('base64'),
    },
  }
}

/** All three files are on disk before their folder gets its name, so a crash leaves all of them or none. */
async function createKeys(options: KeyOptions): Promise<void> {
  const making = `${options.dir}.making`
  rmSync(making, { recursive: true, force: true })
  mkdirSync(making, { recursive: true, mode: 0o700 })
  // P-256, because browsers and curl know no Ed25519 certificate.
  const tls = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
  const order = generateKeyPairSync('ed25519').privateKey
  writePrivate(join(making, FILES.tlsKey), pemOf(tls))
  writePrivate(join(making, FILES.orderKey), pemOf(order))
  writePrivate(join(making, FILES.tlsCert), await makeCertificate(options, tls))
  renameSync(making, options.dir)
  syncFolder(dirname(options.dir))
}

/** The certificate that is there when it still serves, else a new one for the same key: pins stay good. */
async function currentCertificate(options: KeyOptions, key: KeyObject): Promise<string> {
  const path = join(options.dir, FILES.tlsCert)
  if (existsSync(path)) {
    const text = readPrivate(path)
    if (serves(parseCertificate(path, text), key, options)) return text
  }
  const made = await makeCertificate(options, key)
  writePrivate(path, made)
  return made
}

function serves(certificate: X509Certificate, key: KeyObject, options: KeyOptions): boolean {
  const now = options.clock.wallNow()
  const wanted = new Set(namesOf(options).map(({ type, value }) => `${type}:${value}`))
  const found = (certificate.subjectAltName ?? '')
    .split(', ')
    .map((name) => name.replace(/^IP Address:/, 'ip:').replace(/^DNS:/, 'dns:'))
  return (
    certificate.checkPrivateKey(key) &&
    certificate.validToDate.getTime() - now >= CERT_REST_MS_MIN &&
    certificate.validFromDate.getTime() <= now &&
    certificate.subject === `CN=${commonNameOf(options)}` &&
    wanted.size === new Set(found).size &&
    found.every((name) => wanted.has(canonicalName(name)))
  )
}

/** OpenSSL prints an IPv6 address in capitals and unshortened; names are compared in the form of the URL standard. */
function canonicalName(name: string): string {
  const address = name.startsWith('ip:') ? name.slice(3) : ''
  return isIP(address) === 6 ? `ip:${new URL(`http://[${address}]`).hostname.slice(1, -1)}` : name
}

function namesOf(options: KeyOptions): { readonly type: 'dns' | 'ip'; readonly value: string }[] {
  const unspecified = new Set(['0.0.0.0', '::', ''])
  const names = new Set(['localhost', '127.0.0.1', '::1', ...options.names].filter((name) => !unspecified.has(name)))
  const typed = [...names].map((value) => ({ type: isIP(value) === 0 ? ('dns' as const) : ('ip' as const), value }))
  return [...new Map(typed.map(({ type, value }) => [canonicalName(`${type}:${value}`), type] as const))].map(
    ([name, type]) => ({ type, value: name.slice(type.length + 1) }),
  )
}

const commonNameOf = (options: KeyOptions) => `smith ${options.instance}`

async function makeCertificate(options: KeyOptions, key: KeyObject): Promise<string> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
  const privateKey = await webcrypto.subtle.importKey(
    'pkcs8',
    key.export({ type: 'pkcs8', format: 'der' }),
    algorithm,
    true,
    ['sign'],
  )
  const publicKey = await webcrypto.subtle.importKey('spki', spkiOf(key), algorithm, true, ['verify'])
  const now = options.clock.wallNow()
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    // A positive number of at most 20 octets (RFC 5280 section 4.1.2.2).
    serialNumber: `4${Buffer.from(options.random.bytes(16)).toString('hex').slice(1)}`,
    name: `CN=${commonNameOf(options)}`,
    // A client whose clock is a little behind must still accept it.
    notBefore: new Date(now - DAY_MS),
    notAfter: new Date(now + CERT_LIFE_MS),
    signingAlgorithm: algorithm,
    keys: { privateKey, publicKey },
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension(namesOf(options)),
    ],
  })
  return `${certificate.toString('pem')}\n`
}

/** Whole or not at all, also over a power cut: written beside, fsynced, renamed, the folder fsynced. */
function writePrivate(path: string, text: string): void {
  const partial = `${path}.partial`
  rmSync(partial, { force: true })
  const descriptor = openSync(partial, 'wx', 0o600)
  try {
    writeFileSync(descriptor, text)
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
  renameSync(partial, path)
  syncFolder(dirname(path))
}

function syncFolder(path: string): void {
  const descriptor = openSync(path, 'r')
  try {
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}

function readKey(dir: string, name: string, type: 'ec' | 'ed25519'): KeyObject {
  const path = join(dir, name)
  if (!existsSync(path)) {
    const others = readdirSync(dir).join(', ') || 'nothing'
    throw refused(`${path} is missing (the folder holds ${others})`, restoreRemedy(dir))
  }
  const text = readPrivate(path)
  let key: KeyObject
  try {
    key = createPrivateKey(text)
  } catch (error) {
    throw refused(
      `${path} holds no whole key: ${error instanceof Error ? error.message : String(error)}`,
      restoreRemedy(dir),
    )
  }
  if (key.asymmetricKeyType === type) return key
  throw refused(
    `${path} holds a key of type ${key.asymmetricKeyType ?? 'unknown'} instead of ${type}`,
    restoreRemedy(dir),
  )
}

function parseCertificate(path: string, text: string): X509Certificate {
  try {
    return new X509Certificate(text)
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    throw refused(
      `${path} holds no whole certificate: ${problem}`,
      `remove ${path}: a new one is made for the same key, and no agent notices`,
    )
  }
}

function readPrivate(path: string): string {
  assertPrivate(path, 0o077)
  return readFileSync(path, 'utf8')
}

/** Whoever can read these files can be the coordinator. */
function assertPrivate(path: string, mask: number): void {
  const found = lstatSync(path)
  if (!found.isFile() && !found.isDirectory())
    throw refused(`${path} is neither a file nor a folder`, 'put the file itself there, no link')
  const mode = found.mode & 0o777
  if ((mode & mask) === 0) return
  const wanted = found.isDirectory() ? '700' : '600'
  throw refused(
    `${path} is open to others (mode ${mode.toString(8)})`,
    `if nobody else has read it, run: chmod ${wanted} ${path}; else make new keys and enrol every agent again`,
  )
}

const restoreRemedy = (dir: string) =>
  `restore a backup; or, to begin anew with new keys, move ${dir} away: every agent must then be enrolled again`

const refused = (message: string, remedy: string) => {
  const refusal: Refusal = { kind: 'unavailable', message, remedy }
  return new RefusedError([refusal])
}

function spkiOf(key: KeyObject): Buffer {
  return createPublicKey(key).export({ type: 'spki', format: 'der' })
}

function pemOf(key: KeyObject): string {
  return String(key.export({ type: 'pkcs8', format: 'pem' }))
}
