/**
 * The sealed form of a file: a header that can be read, then chunks of AES-256-GCM (NIST SP 800-38D) under a key made
 * of a passphrase by scrypt (RFC 7914). Each chunk's nonce carries its number and whether it is the last, so that no
 * chunk can be moved, repeated or left off unseen. Memory stays at one chunk, whatever the size.
 */
import { type ScryptOptions, createCipheriv, createDecipheriv, scrypt } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import * as v from 'valibot'
import { type Refusal, RefusedError } from '../../protocol/errors.ts'
import type { Random } from '../ports.ts'

const MAGIC = 'smith-sealed-v1\n'
const HEADER_BYTES_MAX = 1024
const CHUNK_BYTES = 1_048_576
const TAG_BYTES = 16
/** 128 MiB and about half a second a try, against guessing (RFC 7914 section 2 on the cost). */
export const SCRYPT_COST = 131_072

const powerOfTwo = v.check((n: number) => Number.isInteger(Math.log2(n)))
/** Bounded, because a forged header must not make a restore eat the machine's memory. */
const headerSchema = v.strictObject({
  kdf: v.literal('scrypt'),
  n: v.pipe(v.number(), v.minValue(1024), v.maxValue(1_048_576), powerOfTwo),
  r: v.literal(8),
  p: v.literal(1),
  salt: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  nonce: v.pipe(v.string(), v.regex(/^[0-9a-f]{14}$/)),
  chunk: v.pipe(v.number(), v.safeInteger(), v.minValue(1024), v.maxValue(16_777_216)),
})
type Header = v.InferOutput<typeof headerSchema>

export type Seal = { readonly passphrase: string; readonly random: Random; readonly cost?: number }

/** Encrypts what the source gives, and hands on what belongs into the sealed file, in order. */
export async function* sealStream(source: AsyncIterable<Buffer>, options: Seal): AsyncGenerator<Buffer> {
  const header: Header = {
    kdf: 'scrypt',
    n: options.cost ?? SCRYPT_COST,
    r: 8,
    p: 1,
    salt: Buffer.from(options.random.bytes(32)).toString('hex'),
    nonce: Buffer.from(options.random.bytes(7)).toString('hex'),
    chunk: CHUNK_BYTES,
  }
  const head = Buffer.from(`${MAGIC}${JSON.stringify(header)}\n`)
  const key = await deriveKey(options.passphrase, header)
  yield head
  let index = 0
  let waiting: Buffer = Buffer.alloc(0)
  for await (const piece of source) {
    waiting = Buffer.concat([waiting, piece])
    // A chunk goes out only when more follows it: the last one bears the mark.
    while (waiting.length > header.chunk) {
      yield encrypt({ key, header, head, index, isLast: false }, waiting.subarray(0, header.chunk))
      waiting = waiting.subarray(header.chunk)
      index += 1
    }
  }
  yield encrypt({ key, header, head, index, isLast: true }, waiting)
}

/** Decrypts a sealed file; nothing comes out that was not authenticated, and the end only when it is the end. */
export async function* openStream(file: FileHandle, passphrase: string, name: string): AsyncGenerator<Buffer> {
  const { size } = await file.stat()
  const { header, head } = await readHeader(file, name)
  const key = await deriveKey(passphrase, header)
  let offset = head.length
  for (let index = 0; ; index += 1) {
    const length = Math.min(header.chunk + TAG_BYTES, size - offset)
    const isLast = offset + length === size
    const sealed = await readExactly(file, offset, length)
    const plain = sealed.length < TAG_BYTES ? null : decrypt({ key, header, head, index, isLast }, sealed)
    if (plain === null)
      throw index === 0
        ? refused(
            `${name} does not open: the passphrase is wrong, or the file is damaged`,
            'try the passphrase again, or another copy of the file',
          )
        : damagedAt(name, offset)
    yield plain
    offset += length
    if (isLast) return
  }
}

type Chunk = {
  readonly key: Buffer
  readonly header: Header
  readonly head: Buffer
  readonly index: number
  readonly isLast: boolean
}

function nonceOf({ header, index, isLast }: Chunk): Buffer {
  const nonce = Buffer.alloc(12)
  nonce.write(header.nonce, 0, 'hex')
  nonce.writeUInt32BE(index, 7)
  nonce.writeUInt8(isLast ? 1 : 0, 11)
  return nonce
}

function encrypt(chunk: Chunk, plain: Buffer): Buffer {
  const cipher = createCipheriv('aes-256-gcm', chunk.key, nonceOf(chunk), { authTagLength: TAG_BYTES })
  cipher.setAAD(chunk.head)
  return Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()])
}

/** Null when the chunk is not what was sealed in this place with this passphrase. */
function decrypt(chunk: Chunk, sealed: Buffer): Buffer | null {
  const decipher = createDecipheriv('aes-256-gcm', chunk.key, nonceOf(chunk), { authTagLength: TAG_BYTES })
  decipher.setAAD(chunk.head)
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES))
  const plain = decipher.update(sealed.subarray(0, sealed.length - TAG_BYTES))
  try {
    return Buffer.concat([plain, decipher.final()])
  } catch {
    // OpenSSL's only word for a tag that does not match.
    return null
  }
}

function deriveKey(passphrase: string, { n, r, p, salt }: Header): Promise<Buffer> {
  const options: ScryptOptions = { N: n, r, p, maxmem: 256 * n * r }
  return new Promise((resolve, reject) => {
    scrypt(passphrase.normalize('NFKC'), Buffer.from(salt, 'hex'), 32, options, (error, key) =>
      error === null ? resolve(key) : reject(error),
    )
  })
}

async function readHeader(file: FileHandle, name: string): Promise<{ readonly header: Header; readonly head: Buffer }> {
  const start = await readExactly(file, 0, HEADER_BYTES_MAX)
  const end = start.indexOf('\n', MAGIC.length)
  if (start.toString('latin1', 0, MAGIC.length) !== MAGIC || end < 0) {
    throw refused(
      `${name} is no backup of smith, or of a version that this one does not know`,
      'name a file that smith backup wrote',
    )
  }
  const head = start.subarray(0, end + 1)
  const result = v.safeParse(headerSchema, parseJson(head.toString('utf8', MAGIC.length)))
  if (!result.success) throw damagedAt(name, MAGIC.length)
  return { header: result.output, head: Buffer.from(head) }
}

/** Null for what is no JSON: the schema then refuses it. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

async function readExactly(file: FileHandle, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(Math.max(0, length))
  let filled = 0
  while (filled < buffer.length) {
    const { bytesRead } = await file.read(buffer, filled, buffer.length - filled, offset + filled)
    if (bytesRead === 0) break
    filled += bytesRead
  }
  return buffer.subarray(0, filled)
}

export const damagedAt = (name: string, offset: number) =>
  refused(`${name} is damaged at byte ${offset}`, 'use another copy of the file')

export function refused(message: string, remedy: string, kind: Refusal['kind'] = 'unavailable'): RefusedError {
  return new RefusedError([{ kind, message, remedy }])
}
