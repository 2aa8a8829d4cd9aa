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
  ['named', password, (s) => `DB_PASS=${s}`],
  ['named', password, (s) => `  pass: ${s}`],
  ['named', password, (s) => `dbPass = ${s}`],
  ['named', password, (s) => `MYSQL_PWD=${s} mysql`],
  ['named', password, (s) => `Server=x;Uid=y;Pwd=${s};`],
  ['named', password, (s) => `password => "${s}",`],
  ['named', password, (s) => `PASSWORD="${s} and the quote was cut off`],
  ['named', password, (s) => `passphrase: correct horse ${s}`],
  ['named', password, (s) => `  db_password=correct horse ${s}`],
  ['named', password, (s) => `2026-01-01T00:00:00.000Z ${'ab'.repeat(16)} install password=correct horse ${s}`],
  ['named', password, (s) => `password=hun"${s}"`],
  ['named', password, (s) => JSON.stringify({ text: `password="with spaces ${s}"` })],
  ['named', password, (s) => JSON.stringify({ text: JSON.stringify({ password: `with spaces ${s}` }) })],
  ['named', password, (s) => JSON.stringify(JSON.stringify(JSON.stringify({ client_secret: `a "quoted" ${s}` })))],
  ['named', password, (s) => `password\u001b[0m=${s}`],
  ['named', password, (s) => `\u001b[1mpass\u001b[38;5;1mword\\x1b[0m: ${s}`],
  ['named', base64, (s) => `PresharedKey = ${s}`],
  ['named', base64, (s) => `AccountName=x;AccountKey=${s};EndpointSuffix=y`],
  ['named', password, (s) => `openssl rsa -passin pass:${s}`],
  ['named', password, (s) => `<Password>${s}</Password>`],
  ['option', password, (s) => `tool --pwd ${s}`],
  ['option', password, (s) => `tool --db-pass ${s}`],
  ['option', password, (s) => `tool --pw ${s}`],
  ['option', password, (s) => `curl \\\n-u deploy:${s} \\\nhttps://archive.example`],
  ['option', password, (s) => `sshpass -p ${s} ssh x`],
  ['option', password, (s) => `sshpass -e -p${s} ssh x`],
  ['option', password, (s) => `mysql -u root -p${s} -e x`],
  ['option', password, (s) => `mysqldump -p${s} db`],
  ['option', password, (s) => `redis-cli -h x -a ${s} ping`],
  ['option', password, (s) => `IDENTIFIED BY '${s}'`],
  ['debconf', password, (s) => `mysql-server mysql-server/root_password password ${s}`],
  ['debconf', password, (s) => `mysql-server/root_password password two words ${s}`],
  ['debconf', password, (s) => `SET mysql-server/root_password ${s}`],
  ['netrc', password, (s) => `machine archive.example password ${s} login deploy`],
  ['netrc', password, (s) => `password ${s} login deploy`],
  ['netrc', word, (s) => `machine archive.example\n  login deploy\n  password ${s}\n`],
  ['netrc', fc.constant('correcthorse'), (s) => `machine archive.example\nlogin deploy\npassword ${s}`],
  ['netrc', fc.constant('hunter2'), (s) => `2026-01-01T00:00:00.000Z ${'ab'.repeat(16)} install password ${s}`],
  ['spoken', fc.constant('qwe#123'), (s) => `A temporary password is generated for root@localhost: ${s}`],
  ['cookie', word, (s) => `< Set-Cookie: session=${s}; Path=/`],
  ['cookie', word, (s) => `Cookie: a=b; c=${s}`],
  ['signed-url', word, (s) => `GET https://x.example/a?X-Amz-Signature=${s}`],
  ['signed-url', base64, (s) => `https://x.example/a?sv=2020&sig=${s}`],
  ['webhook', word, (s) => `https://hooks.slack.com/services/T0/B0/${s}`],
  ['password-hash', word, (s) => `root:$6$saltsalt$${s}:19000:0`],
  ['password-hash', word, (s) => `usermod -p $y$j9T$abcdefgh$${s} root`],
  ['password-hash', word, (s) => `admin:$2b$12$${s}`],
  ['service-token', fc.stringMatching(/^[A-Z0-9]{20,50}$/), (s) => `AGE-SECRET-KEY-1${s}`],
  ['service-token', word, (s) => `STRIPE sk_live_${s}`],
  ['service-token', fc.stringMatching(/^[A-Za-z0-9]{36}$/), (s) => `npm_${s}`],
  ['service-token', word, (s) => `hvs.${s}`],
  ['forge-token', word, (s) => `glpat-${s}`],
  ['forge-token', word, (s) => `github_pat_${s}`],
  ['slack-token', word, (s) => `xoxe.xoxp-1-${s}`],
  ['json-web-token', word, (s) => `cookie eyJ${s}.${s}.${s}`],
]

t.test('[RPT-1] a secret is taken out wherever it stands, and counted by its rule', async (t) => {
  const noise = fc.array(fc.string({ maxLength: 60 }), { maxLength: 4 })
  for (const [rule, arbitrary, form] of FORMS)
    fc.assert(
      fc.property(arbitrary, noise, noise, (secret, before, after) => {
        fc.pre(![...before, ...after].join('\n').includes(secret))
        const { text, hits } = redact([...before, form(secret), ...after].join('\n'))
        if (text.includes(secret) || (hits[rule] ?? 0) === 0)
          throw new Error(`${JSON.stringify(text)} by ${JSON.stringify(hits)}`)
      }),
      { numRuns: 50 },
    )
  const { text, hits } = redact('key AKIAIOSFODNN7EXAMPLE and literal-of-ours here', ['literal-of-ours'])
  t.same([text, hits], ['key *** and *** here', { 'own-key': 1, 'aws-key': 1 }])
})

t.test('[RPT-1] what went through once comes through again as it is, and counts once', async (t) => {
  for (const [rule, arbitrary, form] of FORMS)
    fc.assert(
      fc.property(arbitrary, (secret) => {
        const { text } = redact(`before ${form(secret)}\nafter`)
        t.same(redact(text), { text, hits: {} }, rule)
      }),
      { numRuns: 3 },
    )
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
      ...(body.length > 2 ? { 'without both': body.join('\n') } : {}),
      'without its beginning': lines.slice(1).join('\n'),
      'without its end': lines.slice(0, -1).join('\n'),
      'in a log': lines.map((line) => `2026-01-01T00:00:00Z order install ${line}`).join('\n'),
      'on one line': JSON.stringify({ key }),
      'in lines of JSON': lines.map((line) => JSON.stringify({ text: `${line}\n` })).join('\n'),
      'as SSH2 writes it': key.replaceAll(
        /-----((?:BEGIN|END)) PRIVATE KEY-----/g,
        '---- $1 SSH2 ENCRYPTED PRIVATE KEY ----',
      ),
    }
    for (const [what, form] of Object.entries(forms)) {
      const { text, hits } = redact(`before it\n${form}\nafter it`)
      t.notOk(
        body.some((line) => text.includes(line)),
        what,
      )
      t.ok((hits['private-key'] ?? 0) > 0, what)
      t.match(text, /^before it\n/, what)
      if (what !== 'without its end' && what !== 'in lines of JSON') t.match(text, /\nafter it$/, what)
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
    'bearer authentication failed',
    // Packages with such names, as apt and dpkg print them.
    '2026-01-01 10:00:00 status half-configured passwd:amd64 1:4.13+dfsg1-1',
    'Upgrade: passwd:amd64 (1:4.13, 1:4.14), libsecret-1-0:amd64 (0.20.5, 0.21.0), python3-tokenize-rt:all (5.0, 5.1)',
    'Setting up passwd (1:4.13+dfsg1-1+deb12u1) ...',
    'Setting up libpam-pwquality:amd64 (1.4.5-1+b1) ...',
    'passwd:amd64=1:4.13+dfsg1-1 libsecret-1-0=0.20.5-3',
    ' passwd : Depends: libpam0g (>= 0.99.7.1) but it is not going to be installed',
    'dpkg: dependency problems prevent configuration of passwd:',
    'glib-networking-services and libglib2.0-0',
    '/var/lib/dpkg/info/passwd.postinst: 12: usermod: not found',
    'cat: /etc/passwd: No such file or directory',
    'passwd: password updated successfully',
    'passwd: Authentication token manipulation error',
    'password expired',
    'Password: ',
    "ERROR 1045 (28000): Access denied for user 'root'@'localhost' (using password: YES)",
    'systemd[1]: systemd-ask-password-console.path: Deactivated successfully.',
    'systemd[1]: foo.service: Failed to set up credentials: Protocol error',
    'pam_unix(passwd:chauthtok): conversation failed',
    // Tests and folders.
    'pass: 12 tests',
    '  Bag: *web-1* - CTASK0348812, State: `complete` MachineCount: 1 Pass:1 Fail:0',
    'PASS: test-suite/one.sh',
    '# pass 12',
    'PWD=/root OLDPWD=/ bypass=1 compass: north',
    'd2d2a1f3c4b5a6978899aabbccddeeff00112233445566778899aabbccddeeff\nd2d2a1f3c4b5a6978899aabbccddeeff00112233445566778899aabbccddeeff',
    'cost $5 $2 $10 in all',
  ])
    t.same(redact(line), { text: line, hits: {} }, line)
})

/** Some of them are what a rule begins with and never ends. */
const HOSTILE = [
  ...['a.', '://', '-----BEGIN PRIVATE KEY-----\n', '-----BEGIN PRIVATE KEY-----', '-----END PRIVATE KEY-----', '-'],
  ...['password', 'password=', 'password="', "password='", 'password=\\"', 'password:amd64,', 'passwd:all ', 'pass:1 '],
  ...[
    'login ',
    'machine a ',
    'password a ',
    '\npassword a1',
    '"\\',
    '\\\\\\"',
    'eyJ',
    'bearer ',
    'basic ',
    '\u001b[',
    '\\x1b[',
  ],
  ...['mysql ', 'sshpass ', 'redis-cli ', 'ldapadd ', 'identified by ', 'a/a/', 'a/a password', 'SET x', 'SET a/key '],
  ...['$6$', '<token', 'sig=', 'token x]: ', '-u a', 'gl', 'AGE-SECRET-KEY-1', 'authorization', '/passwd: ', 'A1b'],
]

t.test('[RPT-1] hostile text costs no more than its length', async (t) => {
  const size = 1_000_000
  for (const piece of HOSTILE) {
    const text = piece.repeat(Math.ceil(size / piece.length))
    const began = process.cpuUsage()
    redact(text)
    // Quadratic would be minutes.
    const { user } = process.cpuUsage(began)
    t.ok(user < 5_000_000, `${JSON.stringify(piece)}: ${user / 1000} ms`)
  }
})
