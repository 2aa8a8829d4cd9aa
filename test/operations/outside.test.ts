/** What is kept outside smith, changes and lists of machines: docs/OPERATIONS.md, as it stands there, on stand-ins. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { GROUP } from '../servicenow/records.ts'
import { type Fault, SECRET, StandIn, serveStandIn } from '../servicenow/stand-in.ts'
import { until } from '../site/harness.ts'
import { newFolder, startInstance } from './instance.ts'
import { PAGES } from './pages.ts'
import { openRunbook } from './runbook.ts'

const book = openRunbook(PAGES.outside)
const MINUTE = 60_000
const ASK = 'prod machines: web-1 web-2 outage:0'

t.test('[OPS-2] an approval is given with its digest, withdrawn and given again', async (t) => {
  const site = await startInstance(t)
  const page = book.page(t, 'The approval was withdrawn, or is missing', site)
  const [one, two] = [await site.machine('web-1'), await site.machine('web-2')]
  const change = await site.raise(ASK)
  const values = { CHG0000007: change }
  const { digest } = await site.status(change)
  const approve = 'smith approve CHG0000007'
  const refused = await page.type(approve, { by: 'bo', values, status: 2 })
  t.match(refused.err, /needs the digest/)
  const given = { by: 'bo', values: { ...values, D: digest }, more: ['--digest', digest] }
  const shown = await page.type(approve, given)
  t.match(shown.out, digest, 'it shows the digest')
  await site.granted(one)
  await page.type('smith reject CHG0000007', { by: 'bo', values })
  await one.succeed()
  const held = await site.shows(change, /Held:/)
  page.sees('Held: ...', held)
  t.match(held, /Held: .*approval/)
  t.match(held, `Lift: smith approve ${change}`)
  t.equal(two.grants.length, 0)
  await page.type(approve, given)
  await site.granted(two)
  await two.succeed()
  const other = await site.raise('prod machines: web-1 outage:0')
  await page.type('smith cancel CHG0000007', { values: { CHG0000007: other } })
  await until('it is over', async () => (await site.status(other)).state === 'cancelled')
})

/** A coordinator whose changes are in the stand-in of ServiceNow, and two machines. */
async function startSnow(t: Test) {
  const dir = newFolder(t)
  const standIn = new StandIn()
  const { url, close } = await serveStandIn(standIn)
  const secretFile = join(dir, 'secret')
  writeFileSync(secretFile, `${SECRET}\n`, { mode: 0o600 })
  const lines = `[change]
provider = "servicenow"
[change.servicenow]
url = "${url}"
client_id = "smith"
secret_file = "${secretFile}"
assignment_group = "${GROUP}"
settle = 0.5
retry_min = 0.1
retry_max = 0.2
poll = 0.2
[limits]
change_poll = 0.2
permission_retry = 0.2
ping = 300
dead = 900
`
  const site = await startInstance(t, { lines })
  t.teardown(close)
  const [one, two] = [await site.machine('web-1'), await site.machine('web-2')]
  return { site, standIn, records: standIn.records, url, one, two }
}

/** Approved there, and at its first machine. */
async function begunThere(t: Test) {
  const snow = await startSnow(t)
  const change = await snow.site.raise(ASK)
  snow.records.approve(change)
  await snow.site.granted(snow.one)
  return { ...snow, change, values: { CHG0000007: change } }
}

t.test('[OPS-2] a request whose change gets no number goes on until it is given up', async (t) => {
  const { site, standIn } = await startSnow(t)
  const page = book.page(t, 'The change gets no number', site)
  standIn.fault = () => ({ status: 503 })
  const refusalOfAnother = async () => {
    const text = 'prod machines: web-1 outage:0'
    const { request } = await site
      .ask<{ request: string }>('POST', '/requests', { text, preview: true }, 'ana')
      .catch((error: unknown) => ({ request: String(error) }))
    return request
  }
  const raising = () => [...site.driver.view.all('requests')].find((one) => !one.preview && one.state === 'raising')
  const more = ['prod', 'machines:', 'web-1', 'outage:0']
  const ends = { words: /Raising the change \.\.\./, act: 'Ctrl-C' } as const
  const shown = await page.type('smith patch', { more, ends, status: 130 })
  const [, request = ''] = /smith cancel ([0-9a-f]{32})/.exec(shown.out) ?? []
  t.match(await refusalOfAnother(), `smith cancel ${request}`, 'the refusal of another names it too')
  await page.type('smith cancel REQUEST', { values: { REQUEST: request } })
  standIn.fault = () => undefined
  await until('it is given up', () => raising() === undefined)
})

t.test('[OPS-2] ServiceNow: what is looked at, and where it is approved', async (t) => {
  const { site, records, url, one } = await startSnow(t)
  const page = book.page(t, 'Changes in ServiceNow', site)
  t.match((await page.type('smith-coordinator config')).out, /^change\.servicenow\.url$/m)
  t.match((await page.type('smith doctor', { by: 'cy' })).out, /ServiceNow/)
  const change = await site.raise(ASK)
  const shown = await site.text(change)
  page.sees('CHANGE: https://...', shown, { 'https:': 'http:' })
  for (const command of ['smith approve CHG0000007', 'smith approve']) {
    const more = command.endsWith('7') ? [] : [change]
    const refused = await page.type(command, { by: 'bo', values: { CHG0000007: change }, more, status: 1 })
    t.match(refused.err, `Open: ${url}`)
  }
  t.equal(one.grants.length, 0)
  records.approve(change)
  await site.granted(one)
  records.revert(change)
  await one.succeed()
  page.sees('Lift: have CHG... approved at https://...', await site.shows(change, /Held:/), { 'https:': 'http:' })
  page.leave('TO DO: a person must close or cancel CTASK... (...) of CHG...', 'SNW-18')
  page.leave('Waiting: reading who decided about CHG...', 'SNW-60')
  page.leave('CHG... all bear the correlation id ...', 'SNW-15')
})

t.test('[OPS-2] ServiceNow: while it is not known what the change permits nothing is granted', async (t) => {
  const { site, standIn, change, one, two, values } = await begunThere(t)
  const page = book.page(t, 'Changes in ServiceNow', site)
  const waits = async (fault: Fault, words: RegExp) => {
    standIn.fault = () => fault
    return site.shows(change, words)
  }
  standIn.fault = () => 'html'
  await one.succeed()
  const web = await site.shows(change, /Waiting: .*web page/)
  page.sees('Waiting:', web)
  page.sees('... a web page answered', web)
  page.sees('... rate limit', await waits({ status: 429, headers: { 'retry-after': '1' } }, /Waiting: .*rate limit/))
  await waits('cut', /Waiting: .*can't be reached/)
  site.clock.move(11 * MINUTE)
  page.sees("Held: ... can't be reached", await site.shows(change, /Held:/))
  await page.type('smith resume CHG0000007', { values })
  await site.shows(change, /Waiting: .*can't be reached/)
  site.clock.move(11 * MINUTE)
  await site.shows(change, /Held:/)
  standIn.fault = () => undefined
  const approvals = book.page(t, 'The approval was withdrawn, or is missing', site)
  await approvals.type('smith resume CHG0000007', { values })
  await site.granted(two)
})

t.test('[OPS-2] ServiceNow: another plan, and a change that is gone', async (t) => {
  const { site, records, change, one, two, values } = await begunThere(t)
  const page = book.page(t, 'Changes in ServiceNow', site)
  records.edit(change, { correlation_display: 'another' })
  await one.succeed()
  page.sees('Held: the approval is for another plan', await site.shows(change, /Held:/))
  await page.type('smith cancel CHG0000007', { values })
  const other = await site.raise(ASK)
  records.approve(other)
  await site.granted(one, 2)
  records.delete(other)
  await one.succeed()
  const gone = await site.shows(other, /is not in ServiceNow/)
  page.sees("CHG... is not in ServiceNow any more, or smith's account may not read it (404)", gone)
  await page.type('smith cancel CHG0000007', { values: { CHG0000007: other } })
  t.equal((await site.status(other)).state, 'cancelled')
  t.equal(two.grants.length, 0)
})

t.test('[OPS-2] ServiceNow: what a person must do there, and what it does not take', async (t) => {
  const { site, records } = await startSnow(t)
  const page = book.page(t, 'Changes in ServiceNow', site)
  records.rules.mandatory = 'u_outage'
  page.sees('ServiceNow does not take the change: ...', await site.refusalOf(ASK))
  records.rules.mandatory = null
  records.rules.unwritable.add('correlation_id')
  page.sees('... without correlation_id', await site.refusalOf(ASK))
  records.rules.unwritable.clear()
  records.rules.strict = true
  const change = await site.raise(ASK)
  page.sees('TO DO: a person must press "Request Approval" on CHG...', await site.shows(change, /TO DO/))
})

t.test('[OPS-2] ServiceNow: the stand-in for practice answers by hand', async (t) => {
  const page = book.page(t, 'Changes in ServiceNow')
  t.match(
    (await page.type('node test/servicenow/serve.ts', { ends: { words: /The secret: /, act: 'kill' } })).out,
    /^url = "http/,
  )
})

t.test('[OPS-2] the source of machines: what differs, and what is typed then', async (t) => {
  const source = join(newFolder(t), 'list.json')
  writeFileSync(source, '["web-1", "web-2"]')
  const site = await startInstance(t, {
    machines: ['web-1', 'web-3'],
    lines: `[lookup]\nsource = "file"\nfile = "${source}"\n`,
  })
  const page = book.page(t, 'Which machines there are', site)
  const values = { SOURCE: source }
  const refusalOf = async (name: string) => {
    const text = `prod machines: ${name} outage:0`
    return site.ask('POST', '/requests', { text, preview: true }, 'ana').then(JSON.stringify, String)
  }
  t.match((await page.type('smith-coordinator config')).out, /^lookup\.source$/m)
  page.sees('... is known to SOURCE and has no agent here', await refusalOf('web-2'), values)
  page.sees('... is enrolled, and SOURCE does not know it', await refusalOf('web-3'), values)
  const missing = await page.type('smith machines --missing')
  t.match(missing.out, /web-2 +not enrolled[^]*web-3 +not in the source/)
  await page.type('smith enrol new --name NAME', { by: 'cy', values: { NAME: 'web-2' } })
  const again = { by: 'cy', values: { NAME: 'web-3' } }
  t.match((await page.type('smith enrol new --name NAME', { ...again, status: 1 })).err, /--replace/)
  await page.type('smith enrol new --name NAME --replace', again)
  writeFileSync(source, '["web-1", "WEB-1.example.com"]')
  page.sees('... is ambiguous in SOURCE', await refusalOf('web-1'), values)
  writeFileSync(source, '["web-')
  page.sees('which machines there are is not known: SOURCE ...', await refusalOf('web-1'), values)
  t.match((await page.type('smith doctor', { by: 'cy', status: 1 })).out, /bad: lookup/)
  page.leave('... not to be patched: SOURCE has it as planned', 'LKP-24')
  page.leave('... does not fit the filter ...', 'LKP-6')
})

t.test('[OPS-3] nothing that these sections say is untried', (t) => {
  t.same(book.left(), [])
  t.end()
})
