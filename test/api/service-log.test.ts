/** The coordinator's own log as it is kept and shown: bounded, without secrets, by change and machine. */
import { appendFileSync, mkdirSync, readFileSync, readdirSync, rmdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { multistream, pino } from 'pino'
import t from 'tap'
import { cleanStream, readSecret } from '../../coordinator/secrets.ts'
import { type ServiceLogOptions, createServiceLog, logRow } from '../../coordinator/service-log.ts'
import { makeFolder } from '../../coordinator/store/durable.ts'
import { createSite } from './site.ts'

const open = (options: Omit<ServiceLogOptions, 'makeFolder'>) => createServiceLog({ ...options, makeFolder })
const ALL = { after: 0, since: 0, change: null, machine: null, limit: 1000 }
const line = (fields: object) => JSON.stringify({ level: 30, time: 1000, ...fields })
const messages = (log: ReturnType<typeof createServiceLog>, query: Partial<typeof ALL> = {}) =>
  log.read({ ...ALL, ...query }).records.map(({ message }) => message)

t.test('[SVL-1] what each turn did is a record with its change and machine, beside what is logged', async (t) => {
  const log = open({ folder: t.testdir() })
  const logger = pino({ base: null }, multistream([{ stream: log }]))
  const about = { change: 'CHG0000001', machine: 'web-1' }
  const facts = [
    { fact: 'orderGranted', ...about, fence: 3 },
    { fact: 'logAppended', ...about, from: 1, upTo: 9 },
    { fact: 'orderFailed', ...about, reason: 'no' },
  ] as const
  logRow(logger, { rev: 7, at: 1, actor: 'ana', facts: [...facts] })
  logger.error({ err: new Error('broken'), machine: 'web-2' }, 'a frame could not be sent')
  logger.warn('only words')
  t.match(log.read(ALL).records, [
    { n: 1, level: 'info', message: 'orderGranted', ...about, fields: { rev: '7', actor: 'ana', fence: '3' } },
    { n: 2, level: 'info', message: 'orderFailed', ...about, fields: { reason: 'no' } },
    { n: 3, level: 'error', machine: 'web-2', change: null, fields: { err: /"message":"broken"/ } },
    { n: 4, level: 'warn', message: 'only words', fields: {} },
  ])
  t.equal(log.read(ALL).records.length, 4, 'lines of runs are elsewhere')
})

t.test(
  '[SVL-2] the newest records are kept, bounded on disk and in memory, over a restart and a torn line',
  async (t) => {
    const folder = join(t.testdir(), 'logs')
    const options = { folder, bytesMax: 2000, recordsMax: 20 }
    const log = open(options)
    for (let index = 0; index < 100; index += 1) log.write(line({ msg: `m${index}`, pad: 'x'.repeat(100) }))
    t.same(readdirSync(folder).toSorted(), ['service.log', 'service.log.1'])
    for (const file of readdirSync(folder)) {
      t.ok(statSync(join(folder, file)).size <= 2001, file)
      t.equal(statSync(join(folder, file)).mode & 0o777, 0o600)
    }
    t.ok(messages(log).length <= 25)
    t.equal(messages(log).at(-1), 'm99')
    const { upTo } = log.read(ALL)
    appendFileSync(join(folder, 'service.log'), '\n{"n":101,"at":5,"lev')
    // With room left, so that the torn line stays in the file that goes on.
    const again = open({ folder })
    t.equal(messages(again).at(-1), 'm99')
    again.write(line({ msg: 'after' }))
    t.same(messages(again, { after: upTo }), ['after'], 'numbers go on')
    t.equal(messages(open(options)).at(-1), 'after', 'a torn line costs itself only')
  },
)

t.test('[SVL-3] no secret is kept, wherever it stands', async (t) => {
  const folder = t.testdir()
  const log = open({ folder })
  const secret = 'S3cretS3cretS3cret'
  const fields = {
    ...{ token: secret, headers: { authorization: `Bearer ${secret}` }, passphrase: secret, clientSecret: secret },
    ...{ change: `smithp_${secret}`, text: `asked with smithp_${secret} and smith1.${secret}.pin.web-1` },
  }
  log.write(line({ msg: `smithp_${secret}`, ...fields, err: { message: `for smithp_${secret}`, token: secret } }))
  log.write(`not JSON smithp_${secret}`)
  t.notMatch(JSON.stringify(log.read(ALL)), secret)
  t.notMatch(readFileSync(join(folder, 'service.log'), 'utf8'), secret)
  t.match(log.read(ALL).records[0]?.fields['text'], 'asked with *** and ***.pin.web-1')
})

t.test(
  '[SVL-10] what goes to the output of the coordinator has no secret either, in whatever form it came',
  async (t) => {
    const out: string[] = []
    const log = pino({ level: 'info', base: null }, cleanStream([{ write: (text) => out.push(text) }]))
    const S = 'S3cretS3cretS3cret'
    const file = join(t.testdir(), 'client')
    writeFileSync(file, 'Zq9oneofakindWithoutForm\n', { mode: 0o600 })
    readSecret(file)
    const [slack, app] = [`xoxb-12-34-${S}`, `xapp-1-A0-${S}`]
    const texts = [
      `prod machines: web-1 outage:0 ${slack} xoxe.xoxp-1-${S} ${app} nbt_${S}.${S}`,
      `answered 401: {"client_secret":"${S}","access_token": "${S}", "token":"${S}", 'password': '${S}'}`,
      `client_id=smith&client_secret=${S}&grant_type=x password: ${S} secret=${S} api_key=${S}`,
      `Authorization: Bearer ${S} authorization=Basic ${S} sent bearer ${S} and Token ${S} to https://ana:${S}@site.example/x`,
      `-----BEGIN PRIVATE KEY-----\n${S}\n-----END PRIVATE KEY-----`,
      'the answer has Zq9oneofakindWithoutForm in it',
    ]
    for (const text of texts)
      log.warn({ problem: text, deep: [{ said: text, apiToken: S }], err: new Error(text) }, text)
    log.info(
      { change: 'CHG0000001', n: 7, none: null },
      'getting a token: ServiceNow gives none (401): see the basic authentication of it',
    )
    const all = out.join('')
    t.notMatch(all, S)
    t.notMatch(all, 'oneofakind')
    t.match(all, 'prod machines: web-1 outage:0 *** *** *** ***')
    t.match(all, 'https://***@site.example/x')
    t.match(all, 'client_id=smith&client_secret=***&grant_type=x')
    t.match(JSON.parse(out.at(-1) ?? ''), {
      ...{ change: 'CHG0000001', n: 7, none: null, level: 30 },
      msg: 'getting a token: ServiceNow gives none (401): see the basic authentication of it',
    })
    t.ok(
      out.every((text) => text.endsWith('}\n') && text.indexOf('\n') === text.length - 1),
      'a line for each record',
    )
  },
)

t.test('[SVL-4] a disk that takes nothing costs the files, is told, and is over when it takes something', async (t) => {
  const folder = join(t.testdir({ logs: 'a file in the way' }), 'logs')
  const log = open({ folder })
  log.write(line({ msg: 'in memory' }))
  t.match(log.read(ALL), { trouble: /logs/, records: [{ message: 'in memory' }] })
  const full = t.testdir()
  const other = open({ folder: full })
  mkdirSync(join(full, 'service.log'))
  other.write(line({ msg: 'a' }))
  t.match(other.read(ALL), { trouble: /EISDIR/ })
  t.match(open({ folder: full }).read(ALL), { trouble: /EISDIR/, records: [] }, 'at the start too')
  rmdirSync(join(full, 'service.log'))
  other.write(line({ msg: 'b' }))
  t.match(other.read(ALL), { trouble: null, records: [{ message: 'a' }, { message: 'b' }] })
  const mended = t.testdir()
  writeFileSync(join(mended, 'service.log'), '{"n":1}\n\u0000\u0000garbage')
  t.match(open({ folder: mended }).read(ALL), { trouble: null, records: [] })
})

t.test('[SVL-5] it is shown by time, change and machine, in pages, to those who steer', async (t) => {
  const log = open({ folder: t.testdir() })
  const site = await createSite({ machines: ['web-1'], ports: { serviceLog: log.read } })
  t.teardown(site.close)
  for (let index = 0; index < 5; index += 1)
    log.write(line({ time: index * 1000, msg: `m${index}`, change: `CHG000000${index % 2}`, machine: `web-${index}` }))
  const token = await site.person('requester')
  const ask = async (query: Record<string, string>) => (await site.call('serviceLog', { token, query })).records
  t.same(
    (await ask({ change: 'CHG0000001' })).map(({ message }) => message),
    ['m1', 'm3'],
  )
  t.same(
    (await ask({ machine: 'web-4', since: '2000' })).map(({ message }) => message),
    ['m4'],
  )
  t.same(await ask({ machine: 'web-1', since: '2000' }), [])
  const seen: string[] = []
  for (let after = 0, ended = false; !ended;) {
    const page = await site.call('serviceLog', { token, query: { after: String(after), limit: '2' } })
    seen.push(...page.records.map(({ message }) => message))
    t.ok(page.records.length <= 2)
    ;({ upTo: after, ended } = page)
  }
  t.same(seen, ['m0', 'm1', 'm2', 'm3', 'm4'])
  t.equal((await site.ask('serviceLog', { token: await site.person('viewer') })).status, 403)
  for (const query of [{ change: 'x' }, { machine: '../x' }, { after: '-1' }, { limit: '0' }, { since: 'x' }])
    t.match(await site.ask('serviceLog', { token, query }), { status: 400 }, JSON.stringify(query))
})
