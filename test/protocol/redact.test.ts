/** What is taken for a secret, planted in many forms and places, and that what is none is left alone. */
import { generateKeyPairSync } from 'node:crypto'
import fc from 'fast-check'
import t from 'tap'
import { redact } from '../../protocol/redact.ts'

const word = fc.stringMatching(/^[A-Za-z0-9]{20,40}$/)
const base64 = fc.stringMatching(/^[A-Za-z0-9+/]{24,40}={0,2}$/)
const password = fc.stringMatching(/^[A-Za-z0-9!$%*+:.~-]{8,30}$/)

/** Each form of text that carries a secret, with the rule that is to find it. */
const FORMS: readonly (readonly [rule: string, secret: fc.Arbitrary<string>, form: (secret: string) => string])[] = [
  ['authorization', word, (s) => `Authorization: Bearer ${s}`],
  ['authorization', base64, (s) => `> proxy-authorization:Basic ${s}`],
  ['authorization', word, (s) => `{"authorization":"${s}"}`],
  ['bearer', word, (s) => `curl with bearer ${s} failed`],
  ['basic', base64, (s) => `sent Basic ${s}`],
  ['url-password', password, (s) => `Err:1 https://deploy:${s}@archive.example/debian prod InRelease`],
  ['url-password', word, (s) => `http://${s}@archive.example/`],
  ['netrc', password, (s) => `machine archive.example login deploy password ${s}`],
  ['named', password, (s) => `password=${s}`],
  ['named', password, (s) => `MYSQL_ROOT_PASSWORD: ${s}`],
  ['named', password, (s) => `Acquire::http::Proxy::Password "${s}";`],
  ['named', password, (s) => `{"client_secret":"${s}","user":"x"}`],
  ['named', password, (s) => `passphrase = 'with spaces and ${s}'`],
  ['named', word, (s) => `aws_secret_access_key = ${s}`],
  ['option', password, (s) => `/usr/bin/tool --password ${s} --verbose`],
  ['option', password, (s) => `curl -u deploy:${s} https://archive.example`],
  ['slack-token', word, (s) => `xoxb-${s}`],
  ['slack-token', word, (s) => `\u001b[31mxapp-1-${s}`],
  ['smith-token', word, (s) => `smithp_${s}`],
  ['smith-token', word, (s) => `enrol with smith1.${s}`],
  ['forge-token', word, (s) => `ghp_${s}`],
  ['json-web-token', word, (s) => `cookie eyJ${s}.${s}.${s}`],
]

t.test('[RPT-1] a secret is taken out wherever it stands, and counted by its rule', async (t) => {
  const noise = fc.array(fc.string({ maxLength: 60 }), { maxLength: 4 })
  for (const [rule, arbitrary, form] of FORMS)
    fc.assert(
      fc.property(arbitrary, noise, noise, (secret, before, after) => {
        const { text, hits } = redact([...before, form(secret), ...after].join('\n'))
        return !text.includes(secret) && (hits[rule] ?? 0) > 0
      }),
      { numRuns: 50 },
    )
  const { text, hits } = redact('key AKIAIOSFODNN7EXAMPLE and literal-of-ours here', ['literal-of-ours'])
  t.same([text, hits], ['key *** and *** here', { 'own-key': 1, 'aws-key': 1 }])
})

t.test('[RPT-1] a private key is taken out whole, also cut, in a log, or on one line', async (t) => {
  const pem = (['ed25519', 'rsa'] as const).map((type) =>
    (type === 'rsa' ? generateKeyPairSync(type, { modulusLength: 2048 }) : generateKeyPairSync('ed25519')).privateKey
      .export({ type: 'pkcs8', format: 'pem' })
      .toString(),
  )
  for (const key of pem) {
    const lines = key.trim().split('\n')
    const body = lines.slice(1, -1)
    const forms = {
      whole: key,
      'without its beginning': lines.slice(1).join('\n'),
      'without its end': lines.slice(0, -1).join('\n'),
      'in a log': lines.map((line) => `2026-01-01T00:00:00Z order install ${line}`).join('\n'),
      'on one line': JSON.stringify({ key }),
    }
    for (const [what, form] of Object.entries(forms)) {
      const { text, hits } = redact(`before it\n${form}\nafter it`)
      t.notOk(
        body.some((line) => text.includes(line)),
        what,
      )
      t.ok((hits['private-key'] ?? 0) > 0, what)
      t.match(text, /^before it\n/, what)
      if (what !== 'without its end') t.match(text, /\nafter it$/, what)
    }
  }
})

t.test('[RPT-1] what is no secret stays as it is', async (t) => {
  for (const line of [
    'Setting up hello (1.1) ...',
    'E: Sub-process /usr/bin/dpkg returned an error code (1)',
    'TOTALS: Pass: 1, Failed NONE, Unstarted NONE',
    'https://archive.example/debian prod InRelease',
    '-----BEGIN PGP SIGNED MESSAGE-----',
    'base-passwd 3.6 is installed',
    'basic functionality of the bearer',
  ])
    t.same(redact(line), { text: line, hits: {} }, line)
})

t.test('[RPT-1] hostile text costs no more than its length', async (t) => {
  const size = 200_000
  for (const piece of ['a.', '://', '-----BEGIN PRIVATE KEY-----\n', 'password', 'login ', '"\\', 'eyJ', 'bearer ']) {
    const text = piece.repeat(Math.ceil(size / piece.length))
    const began = process.cpuUsage()
    redact(text)
    // Quadratic would be minutes.
    t.ok(process.cpuUsage(began).user < 20_000_000, JSON.stringify(piece))
  }
})
