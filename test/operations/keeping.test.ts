/** What whoever keeps an instance sees and types: docs/OPERATIONS.md, as it stands there, on a real coordinator. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { until } from '../site/harness.ts'
import { newFolder, runProgram, startInstance } from './instance.ts'
import { PAGES } from './pages.ts'
import { PERSON, openRunbook } from './runbook.ts'

const book = openRunbook(PAGES.keeping)
const PASSPHRASE = 'a passphrase of the test'

t.test('[OPS-2] what the coordinator itself did, by time, change and machine', async (t) => {
  const site = await startInstance(t, { machines: ['web-1', 'web-2'] })
  const page = book.page(t, 'What the coordinator itself did', site)
  const change = await site.begin('prod machines: web-1 outage:0')
  const command = 'smith logs --service --since 1h'
  await until('it is logged', async () => (await page.type(command)).out.includes(change))
  const ofChange = await page.type(command, { values: { CHG0000007: change }, more: ['--change', change, '--json'] })
  const records: { change?: string }[] = ofChange.out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  t.ok(records.length > 0 && records.every((record) => record.change === change))
  const ofMachine = await page.type(command, { more: ['--machine', 'web-1'] })
  t.match(ofMachine.out, /machine=web-1/)
  t.notMatch(ofMachine.out, /web-2/)
  page.leave('--follow', 'SVL-6')
  page.leave('journalctl -u smith-coordinator', PERSON)
})

t.test('[OPS-2] a token for the dashboard is of the role that was given', async (t) => {
  const site = await startInstance(t)
  const page = book.page(t, 'The dashboard', site)
  const made = await page.type('smith user add ann --role viewer', { by: 'cy' })
  t.match(made.out, /^smithp_\S+\n$/)
  const { users } = await site.ask<{ users: { name: string; roles: string[] }[] }>('GET', '/users')
  t.match(users.find(({ name }) => name === 'ann')?.roles, ['viewer'])
})

t.test('[OPS-2] a bot has its token, its trouble is in the status, and it ends at once', async (t) => {
  const dir = newFolder(t)
  const secret = (name: string, text: string) => {
    writeFileSync(join(dir, name), text, { mode: 0o600 })
    return join(dir, name)
  }
  const lines = `[chat]
app_token_file = "${secret('app', 'xapp-1-test')}"
bot_token_file = "${secret('bot', 'xoxb-test')}"
api_url = "http://127.0.0.1:1/"
[chat.instances.test]
url = "https://127.0.0.1:1"
pin = "${'p'.repeat(43)}"
token_file = "${secret('token', `smithp_${'t'.repeat(43)}`)}"
`
  const site = await startInstance(t, { lines })
  const page = book.page(t, 'Chat', site)
  t.match((await page.type('smith-coordinator config')).out, /^chat\.app_token_file$/m)
  const made = await page.type('smith user add igorina --role bot', { by: 'cy' })
  t.match(made.out, /^smithp_\S+\n$/)
  await until('the trouble is known', async () =>
    (await site.ask<{ troubles?: string[] }>('GET', '/projects')).troubles?.some((one) => one.startsWith('Slack')),
  )
  const shown = await page.type('smith status')
  page.sees('Trouble: Slack ...', shown.out)
  t.match(shown.out, /^Trouble: /, 'it begins with that')
  await page.type('smith user revoke igorina', { by: 'cy' })
  const home = newFolder(t)
  const login = ['smith', '--config', join(home, 'c.toml'), 'login', '--url', site.url, '--pin', site.pin]
  const refused = await runProgram(home, login, { input: made.out })
  t.equal(refused.status, 1)
  page.leave('npm run demo:runbook', 'BOT-51')
})

t.test('[OPS-2] a backup is restored as the CLI says, and what the machines know freezes the instance', async (t) => {
  const site = await startInstance(t)
  const page = book.page(t, 'Backup and restore', site)
  const one = await site.machine('web-1')
  const dir = newFolder(t)
  const [file, state] = [join(dir, 'smith-monday'), join(dir, 'state')]
  const values = { FILE: file, DIR: state }
  const made = await page.type('smith backup FILE', { by: 'socket', values, input: `${PASSPHRASE}\n` })
  t.match(made.out, `Written: ${file}`)
  await site.begin('prod machines: web-1 outage:0')
  await site.granted(one)
  await one.succeed()
  await site.stop()
  const told = await page.type('smith restore FILE --state-dir DIR', { values, status: 1 })
  const passphrase = join(dir, 'passphrase')
  writeFileSync(passphrase, `${PASSPHRASE}\n`, { mode: 0o600 })
  const command = 'smith-coordinator restore FILE --state-dir DIR --passphrase-file PASSPHRASE-FILE'
  t.equal(/do: Type: (.*)$/m.exec(told.err)?.[1], command.replace('FILE', file).replace('DIR', state))
  await page.type(command, { values: { ...values, 'PASSPHRASE-FILE': passphrase } })
  t.ok(existsSync(join(state, 'keys')))
  const after = await startInstance(t, { dir, people: { dee: ['admin'] } })
  one.leave()
  const frozen = async () => (await after.ask<{ frozen: { reason: string } | null }>('GET', '/projects')).frozen
  t.ok(await frozen(), 'it starts frozen')
  const again = book.page(t, 'Backup and restore', after)
  await again.type('smith unfreeze', { by: 'dee' })
  one.moveTo({ port: after.port, now: () => after.driver.now() })
  await after.online(one)
  t.match((await until('it is frozen', frozen)).reason, /web-1.*fence/)
  await again.type('smith unfreeze', { by: 'dee' })
})

t.test('[OPS-2] who did what, and whether any of it was changed since', async (t) => {
  const site = await startInstance(t, { machines: ['web-1', 'web-2'] })
  const page = book.page(t, 'Who did what', site)
  const change = await site.begin('prod machines: web-1 outage:0')
  const audit = async (...more: string[]) => {
    const values = { CHG: change, NAME: more[1] ?? '' }
    return (await page.type('smith audit', { by: 'cy', values, more })).out
  }
  t.match(
    await audit(),
    new RegExp(` ana requestMade: prod machines: web-1[^]* bo changeDecided ${change}: approved\n`),
  )
  t.match(await audit('--change', change, '--json'), /"who": "bo"/)
  t.match(await audit('--machine', 'web-1'), /web-1/)
  t.notMatch(await audit('--person', 'bo'), / ana /)
  t.match(await audit('--since', '7d'), / bo /)
  t.equal(await audit('--until', '2020-01-01'), 'Nothing.\n')
  const verified = await page.type('smith audit verify', { by: 'cy' })
  const head = /[0-9a-f]{64}/.exec(verified.out)?.[0] ?? ''
  const file = join(newFolder(t), 'backup')
  const input = `${PASSPHRASE}\n`
  const backup = await page.type('smith backup', { by: 'socket', more: [file], input })
  t.match(backup.out, /Head of the journal: [0-9a-f]{64}/)
  const values = { FILE: file, HASH: head }
  await page.type('smith audit verify FILE', { by: 'cy', values, input })
  await page.type('smith audit verify --head HASH', { by: 'cy', values })
  await page.type('smith audit verify --head HASH', { by: 'cy', values: { HASH: 'f'.repeat(64) }, status: 1 })
})

t.test('[OPS-3] nothing that these sections say is untried', (t) => {
  t.same(book.left(), [])
  t.end()
})
