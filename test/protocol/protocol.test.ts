/**
 * The protocol as a whole: that it never changes silently, that docs/PROTOCOL.md says what it is, and that its pure
 * functions (orders, hashes, drift) keep their promises. `SMITH_UPDATE=1 node test/protocol/protocol.test.ts`
 * rewrites the pinned hash and the generated parts of the page.
 */
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import * as fc from 'fast-check'
import t from 'tap'
import * as v from 'valibot'
import {
  AGENT_SUBPROTOCOL,
  ENROL_TOKEN_PATTERN,
  agentFrameSchema,
  coordinatorFrameSchema,
} from '../../protocol/agent.ts'
import { type Json, canonicalJson } from '../../protocol/canonical.ts'
import { REFUSAL_KINDS, type RefusalKind, httpStatusOf, refusalSchema, unreachable } from '../../protocol/errors.ts'
import { FEED_SUBPROTOCOL } from '../../protocol/feed.ts'
import { type GrantPayload, grantPayloadSchema, inboxEntrySchema, recordSchema } from '../../protocol/files.ts'
import * as ids from '../../protocol/ids.ts'
import { compareNaturally } from '../../protocol/natural-order.ts'
import { PROTOCOL_HISTORY, PROTOCOL_VERSION } from '../../protocol/version.ts'
import { describeSchema, plain, protocolExports } from './describe.ts'
import { protocolTables } from './tables.ts'

const isUpdate = process.env['SMITH_UPDATE'] === '1'
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
const file = (path: string) => new URL(`../../${path}`, import.meta.url)
const read = (path: string) => readFileSync(file(path), 'utf8')
/** The same examples on each run; a failing one is printed by fast-check with its path. */
const runs = { seed: 20_241, numRuns: 500 }

const SHA = sha256('anything')
const ID = '0123456789abcdef0123456789abcdef'

t.test('[PRO-1] a change of any schema, limit or pattern is a change of the pinned hash', async (t) => {
  const hash = sha256(canonicalJson(plain(await protocolExports())))
  const last = PROTOCOL_HISTORY.at(-1)
  if (last === undefined) throw new Error('the history has at least one entry')
  if (isUpdate && last.hash !== hash && !last.released) {
    writeFileSync(file('protocol/version.ts'), read('protocol/version.ts').replace(last.hash, hash))
    t.pass(`version ${last.version} is pinned to ${hash} now`)
    return
  }
  t.equal(
    hash,
    last.hash,
    last.released
      ? `the protocol changed after version ${last.version} was released: add an entry with version ${last.version + 1}, what changed and hash ${hash} to PROTOCOL_HISTORY, raise PROTOCOL_VERSION, and say in CHANGELOG.md what older agents notice`
      : `the protocol changed: if that was meant, run SMITH_UPDATE=1 node test/protocol/protocol.test.ts and commit protocol/version.ts with it`,
  )
})

t.test('[PRO-1] the hash sees strictness, limits, patterns, options and constants', async (t) => {
  const seen = (schema: v.GenericSchema) => canonicalJson(describeSchema(schema))
  const base = v.strictObject({ name: v.pipe(v.string(), v.regex(/^a$/), v.maxLength(5)) })
  const others = [
    v.strictObject({ name: v.pipe(v.string(), v.regex(/^b$/), v.maxLength(5)) }),
    v.strictObject({ name: v.pipe(v.string(), v.regex(/^a$/i), v.maxLength(5)) }),
    v.strictObject({ name: v.pipe(v.string(), v.regex(/^a$/), v.maxLength(6)) }),
    v.strictObject({ name: v.pipe(v.string(), v.regex(/^a$/)) }),
    v.strictObject({ name: v.nullable(v.pipe(v.string(), v.regex(/^a$/), v.maxLength(5))) }),
    v.strictObject({ name: v.optional(v.pipe(v.string(), v.regex(/^a$/), v.maxLength(5))) }),
    v.strictObject({ nome: v.pipe(v.string(), v.regex(/^a$/), v.maxLength(5)) }),
  ]
  const texts = [base, ...others].map((schema) => seen(schema))
  t.equal(new Set(texts).size, texts.length, 'each differs from each')
  t.throws(() => seen(v.object({})), /does not know the schema type object/, 'an open object is refused')
  t.throws(() => seen(v.looseObject({})), /does not know the schema type/, 'a loose object is refused')
  t.not(seen(v.picklist(['a'])), seen(v.picklist(['a', 'b'])))
  const found = await protocolExports()
  t.ok(Object.keys(found).length >= 9, 'every file of protocol/ was read')
  t.ok(found['errors.ts']?.['CLOSE_CODES'] !== undefined && found['agent.ts']?.['AGENT_FRAME_BYTES_MAX'] !== undefined)
})

t.test('[PRO-1] the history is in order, and the names of the subprotocols carry the version', async (t) => {
  t.same(
    PROTOCOL_HISTORY.map((entry) => entry.version),
    PROTOCOL_HISTORY.map((_, index) => index + 1),
  )
  t.equal(PROTOCOL_VERSION, PROTOCOL_HISTORY.at(-1)?.version)
  for (const entry of PROTOCOL_HISTORY) {
    t.match(entry.change, /^[A-Z].{20,}\.$/s, `version ${entry.version} says what changed`)
    t.match(entry.hash, /^[0-9a-f]{64}$/)
  }
  t.ok(
    PROTOCOL_HISTORY.slice(0, -1).every((entry) => entry.released),
    'only the newest may be unreleased',
  )
  t.equal(AGENT_SUBPROTOCOL, `smith.agent.v${PROTOCOL_VERSION}`)
  t.equal(FEED_SUBPROTOCOL, `smith.feed.v${PROTOCOL_VERSION}`)
})

t.test('[PRO-2] the tables of docs/PROTOCOL.md are what the schemas say', async (t) => {
  let page = read('docs/PROTOCOL.md')
  for (const [name, text] of await protocolTables()) {
    const part = new RegExp(`<!-- generated: ${name} -->\n([^]*?)<!-- end -->`)
    const found = part.exec(page)?.[1]
    if (found === undefined) {
      t.fail(`docs/PROTOCOL.md has no part <!-- generated: ${name} -->`)
    } else if (isUpdate) {
      page = page.replace(part, () => `<!-- generated: ${name} -->\n${text}\n<!-- end -->`)
    } else {
      t.equal(
        found.trim(),
        text,
        `${name}: after a wanted change run SMITH_UPDATE=1 node test/protocol/protocol.test.ts`,
      )
    }
  }
  if (isUpdate) writeFileSync(file('docs/PROTOCOL.md'), page)
})

t.test('[PRO-3] natural order: runs of digits compare as numbers', async (t) => {
  const sorted = ['a', 'a01', 'a1', 'a2', 'a2b', 'a10', 'a10b', 'b', 'worker-2', 'worker-9', 'worker-10', 'worker-1001']
  t.same([...sorted].toReversed().toSorted(compareNaturally), sorted)
  t.ok(
    compareNaturally('w-9007199254740993-a', 'w-9007199254740992-b') > 0,
    'digits beyond safe integers compare exactly',
  )
  t.ok(compareNaturally('a01', 'a1') !== 0, 'equal numbers written differently are still two names')
})

t.test('[PRO-3] natural order is a total order', async (t) => {
  const name = fc.oneof(
    fc.string({ maxLength: 12 }),
    fc.stringMatching(/^[ab0-9-]{0,10}$/),
    fc.stringMatching(/^w-0{0,3}[0-9]{1,20}$/),
  )
  fc.assert(
    fc.property(name, name, (a, b) => (compareNaturally(a, b) === 0) === (a === b)),
    runs,
  )
  fc.assert(
    fc.property(name, name, (a, b) => Math.sign(compareNaturally(a, b)) === -Math.sign(compareNaturally(b, a)) + 0),
    runs,
  )
  fc.assert(
    fc.property(name, name, name, (a, b, c) => {
      const [x, y, z] = [a, b, c].toSorted(compareNaturally)
      return (
        x !== undefined &&
        y !== undefined &&
        z !== undefined &&
        compareNaturally(x, z) <= 0 &&
        compareNaturally(x, y) <= 0
      )
    }),
    { ...runs, numRuns: 3000 },
  )
  t.pass('reflexive, antisymmetric, transitive')
})

const shuffled = (value: Json): Json => {
  if (Array.isArray(value)) return value.map((item: Json) => shuffled(item))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .toReversed()
      .map(([key, item]) => [key, item === undefined ? item : shuffled(item)]),
  )
}

t.test('[PRO-4] canonical JSON: one value has one text', async (t) => {
  t.equal(canonicalJson({ b: 1, a: [true, null, 'x"'], c: undefined }), '{"a":[true,null,"x\\""],"b":1}')
  t.throws(() => canonicalJson(1.5), /not a safe integer/)
  t.throws(() => canonicalJson({ n: Number.MAX_SAFE_INTEGER + 1 }), /not a safe integer/)
  const json = fc.letrec<{ value: Json }>((tie) => ({
    value: fc.oneof(
      { depthSize: 'small' },
      fc.constant(null),
      fc.boolean(),
      fc.maxSafeInteger().map((number) => number + 0),
      fc.string({ unit: 'binary' }),
      fc.array(tie('value'), { maxLength: 4 }),
      fc.dictionary(fc.string(), tie('value'), { maxKeys: 5, noNullPrototype: true }),
    ),
  })).value
  fc.assert(
    fc.property(json, (value) => canonicalJson(value) === canonicalJson(shuffled(value))),
    runs,
  )
  fc.assert(
    fc.property(json, (value) => {
      t.same(JSON.parse(canonicalJson(value)), JSON.parse(JSON.stringify(value)))
    }),
    { ...runs, numRuns: 100 },
  )
})

const HOSTILE = [
  '',
  ' ',
  '..',
  '../../etc/passwd',
  '/etc/passwd',
  '-oDebug::NoLocking=1',
  '--force-all',
  'a b',
  'a\nb',
  'a\0b',
  'nginx\n',
  '\nnginx',
  'nginx=1.0',
  'nginx:i386',
  'nginx/sid',
  '$(reboot)',
  '`id`',
  ';id',
  'é',
  'Ａ',
  '\u202Enginx',
  '٣',
  '__proto__',
  '%2e%2e',
  'a'.repeat(100_000),
]
const FORMS: readonly (readonly [
  name: string,
  schema: v.GenericSchema,
  good: readonly unknown[],
  bad: readonly unknown[],
])[] = [
  ['id', ids.idSchema, [ID], [ID.toUpperCase(), `${ID}0`, ID.slice(1), `${ID}\n`]],
  ['sha256', ids.sha256Schema, [SHA], [SHA.toUpperCase(), SHA.slice(1), `${SHA}\n`]],
  [
    'machine',
    ids.machineNameSchema,
    ['a', 'prod-dal10-carrier3-worker-11', 'a.b.c', '10'],
    ['A', 'a..b', '.a', 'a.', '-a', 'a-', 'a_b', 'a'.repeat(64), `a${'.aa'.repeat(85)}`],
  ],
  [
    'change',
    ids.changeNumberSchema,
    ['CHG0268453'],
    ['CHG268453', 'chg0268453', 'CHG02684530', 'CHG0268453\n', 'CHG٠٢٦٨٤٥٣'],
  ],
  ['build', ids.buildSchema, ['prod', '725', '1'], ['Prod', 'dev', '7a', '-1', '1'.repeat(13), 'prod\n', 'prod725']],
  [
    'package',
    ids.packageNameSchema,
    ['libc6', 'g++', 'libstdc++6', '0ad', 'a.b'],
    ['a', '+a', '.a', '-a', 'Nginx', `a${'b'.repeat(128)}`],
  ],
  ['architecture', ids.architectureSchema, ['amd64', 'all', 'linux-any'], ['-amd64', 'AMD64', 'a_b', '']],
  [
    'version',
    ids.packageVersionSchema,
    ['1', '1:2.0-3+deb12u1~rc1', '2024.1'],
    ['a1', '-1', '1 2', '1_2', '1/2', `1${'0'.repeat(256)}`],
  ],
  ['instant', ids.instantSchema, [0, 1_700_000_000_000], [-1, 1.5, Number.NaN, Infinity, 2 ** 53, '1', null]],
  ['count', ids.countSchema, [0, 7], [-1, 0.1, 2 ** 60, '7', null, undefined]],
]

t.test('[PRO-7] an identifier is accepted in its only form, and never as a path, an option or two lines', async (t) => {
  for (const [name, schema, good, bad] of FORMS) {
    for (const value of good) t.ok(v.is(schema, value), `${name} accepts ${String(value).slice(0, 40)}`)
    for (const value of [...bad, ...HOSTILE, {}, [], ['x']]) {
      t.notOk(v.is(schema, value), `${name} refuses ${JSON.stringify(value)?.slice(0, 60)}`)
    }
  }
  for (const value of HOSTILE) t.notOk(ENROL_TOKEN_PATTERN.test(value))
  t.notOk(ENROL_TOKEN_PATTERN.test(`smith1.${'a'.repeat(43)}.${'b'.repeat(43)}.name\n`))
  t.ok(ENROL_TOKEN_PATTERN.test(`smith1.${'a'.repeat(43)}.${'b'.repeat(43)}.name`))
})

t.test('[PRO-8] every kind of refusal has an HTTP status of its class', async (t) => {
  for (const kind of REFUSAL_KINDS) {
    const status = httpStatusOf(kind)
    t.ok(status >= 400 && status <= 599, `${kind} is ${status}`)
    t.ok(v.is(refusalSchema, { kind, message: 'm', remedy: 'r' }))
  }
  t.equal(new Set(REFUSAL_KINDS).size, REFUSAL_KINDS.length, 'no kind stands twice')
  t.throws(() => httpStatusOf('no-such' as RefusalKind), /unreachable/)
  t.throws(() => unreachable('x' as never), /unreachable value "x"/)
  t.notOk(v.is(refusalSchema, { kind: 'no-such', message: 'm', remedy: 'r' }))
  t.notOk(v.is(refusalSchema, { kind: 'syntax', message: 'm'.repeat(4097), remedy: 'r' }))
  t.notOk(v.is(refusalSchema, { kind: 'syntax', message: 'm' }), 'there is no refusal without a remedy')
})

const grant: GrantPayload = {
  type: 'smith-grant-v1',
  order: ID,
  machine: ID,
  change: 'CHG0000001',
  fence: 1,
  build: '725',
  planHash: SHA,
  attempt: 1,
  outageMinutes: 0,
  issuedAt: 1,
  startBy: 2,
}

t.test('[PRO-9] a grant has all its fields, no other, and none beyond its bound', async (t) => {
  t.ok(v.is(grantPayloadSchema, grant))
  for (const key of Object.keys(grant)) {
    const { [key as keyof GrantPayload]: _, ...rest } = grant
    t.notOk(v.is(grantPayloadSchema, rest), `not without ${key}`)
    t.notOk(v.is(grantPayloadSchema, { ...grant, [key]: null }), `not with ${key} null`)
  }
  const wrong = [
    { fence: 0 },
    { attempt: 0 },
    { outageMinutes: 1441 },
    { outageMinutes: -1 },
    { type: 'smith-grant-v2' },
    { command: 'id' },
  ]
  for (const change of wrong) t.notOk(v.is(grantPayloadSchema, { ...grant, ...change }), JSON.stringify(change))
  t.notOk(v.is(inboxEntrySchema, { type: 'run', order: ID }))
  t.notOk(v.is(inboxEntrySchema, { type: 'revoke', order: '../x' }))
})

t.test('[PRO-10] a record is one of the known kinds, bounded, and numbered from 1', async (t) => {
  const base = { n: 1, at: 0 }
  const line = { ...base, type: 'line', step: 'install', offset: 0, text: 'x' }
  const result = {
    ...base,
    type: 'result',
    outcome: 'succeeded',
    cause: null,
    step: 'verify',
    message: '',
    evidence: [],
    advice: [],
    latched: true,
    rebootPending: false,
    installed: [],
    outputBytes: 0,
    outputSha256: SHA,
  }
  const good = [
    { ...base, type: 'step', step: 'claim' },
    line,
    { ...base, type: 'line', step: 'install', offset: 0, base64: '/w==' },
    { ...base, type: 'progress', step: 'install', percent: 12.5, label: 'nginx' },
    { ...base, type: 'note', step: 'fetch', text: 'x' },
    { ...base, type: 'hole', offset: 0, bytes: 1, reason: 'bound' },
    result,
  ]
  for (const record of good) t.ok(v.is(recordSchema, record), `accepts ${record.type}`)
  const bad: readonly object[] = [
    { ...line, n: 0 },
    { ...line, step: 'shell' },
    { ...line, text: 'x'.repeat(8193) },
    { ...line, base64: '/w==' },
    { ...base, type: 'command', step: 'claim' },
    { ...base, type: 'progress', step: 'install', percent: 101, label: '' },
    { ...base, type: 'hole', offset: 0, bytes: 1, reason: 'other' },
    { ...result, outcome: 'ok' },
    { ...result, cause: 'bad luck', outcome: 'failed' },
    { ...result, evidence: Array.from({ length: 41 }, () => 'x') },
  ]
  for (const record of bad) t.notOk(v.is(recordSchema, record), `refuses ${JSON.stringify(record).slice(0, 80)}`)
})

t.test('[PRO-11] no frame makes a machine run a command, fetch a file or change its configuration', async (t) => {
  const verbs = coordinatorFrameSchema.options.map((option) => option.entries.t.literal)
  t.same(verbs, ['challenge', 'ready', 'plan', 'offer', 'grant', 'revoke', 'ack', 'forget', 'report', 'ping', 'pong'])
  const text = canonicalJson(describeSchema(coordinatorFrameSchema))
  for (const word of ['command', 'script', 'shell', 'argv', 'exec', 'path', 'url', 'config', 'environment']) {
    t.notOk(text.includes(`"${word}"`), `no field is called ${word}`)
  }
  for (const frame of [
    { t: 'exec', command: 'id' },
    { t: 'ping', n: 1, more: 1 },
    { t: 'revoke', order: '../x' },
    { t: 'plan' },
    [],
    null,
    'ping',
  ]) {
    t.notOk(v.is(coordinatorFrameSchema, frame), JSON.stringify(frame))
    t.notOk(v.is(agentFrameSchema, frame), JSON.stringify(frame))
  }
})
