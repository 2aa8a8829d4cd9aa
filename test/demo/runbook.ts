/**
 * `npm run demo:runbook`: the conversation of the runbook from the request to the status, as an engineer has it in
 * chat. A real coordinator with its bot, real agents with private package roots, a stand-in for Slack that speaks its
 * protocol to Slack's own client libraries, and one for ServiceNow, where the change is raised, approved and closed. On
 * a terminal it stays and hears what is typed; elsewhere it ends.
 */
import { chmod, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { styleText } from 'node:util'
import { plain } from '../../coordinator/chat/words.ts'
import { type Posted, StandIn } from '../chat/standin.ts'
import { GROUP } from '../servicenow/records.ts'
import { SECRET, type Served, StandIn as ServiceNow, serveStandIn } from '../servicenow/stand-in.ts'
import { BUILD, FLAKY_INSTALLED, FLAKY_MACHINE, INSTALLED, MACHINES, PUBLISHED, REQUEST } from './packages.ts'
import { heading as headingOnly, say } from './screen.ts'
import { type Site, createSite } from './site.ts'

const isInteractive = process.stdin.isTTY && process.stdout.isTTY
const ANN = 'U0ANN'
const PEOPLE = { [ANN]: 'ann' }
const DIRECT = 'D0ANN'
const LOG = 'C0LOG'
const WAIT_MS_MAX = 120_000

const slack = await StandIn.start()
const desk = new ServiceNow()
let site: Site | null = null
let serviceNow: Served | null = null
let isEnding = false
/** Shows what was said since; before anything else is shown, so that all stands in its order. */
let showNews = () => {}

function heading(text: string): void {
  showNews()
  headingOnly(text)
}

async function main(): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'smith-runbook-'))
  heading('A signed repository, ServiceNow, a coordinator with its bot, and four machines')
  say(`Everything lies in ${dir}; nothing else of this computer is touched.`)
  await prepare(dir)
  const told = tell()
  heading('Ann asks in a direct message')
  typed(ANN, `smith-patch ${REQUEST}`)
  await click(ANN, 'smith_confirm')
  const raised = await said(DIRECT, /^Change request raised/)
  const [change = ''] = /CHG\d{7}/.exec(raised.text) ?? []
  await said(DIRECT, /\|Approve CHG/)
  heading('Grace, who may approve there, follows the link to ServiceNow')
  approve(change)
  await said(DIRECT, /needs you/)
  heading('One machine failed; the line stopped before the next, and Ann was called')
  typed(ANN, `smith-retry ${change} ${FLAKY_MACHINE}`)
  await said(DIRECT, /is `(complete|failed|cancelled)`/)
  heading('How it went, in the words of the runbook')
  typed(ANN, `smith-status ${change}`)
  const status = await said(DIRECT, /^Project: CHG[^]*Unstarted NONE/, 1)
  await said(LOG, /succeeded/, MACHINES.length - 1)
  await until('the close of the change', () => desk.records.byNumber(change)['state'] === '3')
  heading('What ServiceNow has of it')
  showChange(change)
  if (!/TOTALS: Pass: 4, Failed NONE/.test(status.text)) throw new Error('the project did not end as it should')
  await stay()
  told()
  await end(0)
}

async function prepare(dir: string): Promise<void> {
  const fileOf = (name: string) => join(dir, name)
  const secrets = { app: fileOf('slack-app'), bot: fileOf('slack-bot'), smith: fileOf('smith-bot') }
  let chat = ''
  serviceNow = await serveStandIn(desk)
  await writeFile(fileOf('servicenow-secret'), SECRET, { mode: 0o600 })
  const change = changeSection(serviceNow.url, fileOf('servicenow-secret'))
  const made = await createSite({ dir, change, limits: QUICK, sections: () => chat })
  site = made
  const installed = await Promise.all(INSTALLED.map((spec) => made.build(spec)))
  const flaky = await made.build(FLAKY_INSTALLED)
  const published = await Promise.all(PUBLISHED.map((spec) => made.build(spec)))
  for (const suite of ['prod', BUILD])
    await made.archive.publish({ suite, packages: published, build: BUILD, date: new Date() })
  await made.startCoordinator()
  await made.smith('user', 'add', 'ann', '--role', 'requester')
  const bot = await made.smith('user', 'add', 'igorina', '--role', 'bot')
  for (const [path, text] of [
    [secrets.app, 'xapp-demo'],
    [secrets.bot, 'xoxb-demo'],
    [secrets.smith, bot.stdout.trim()],
  ] as const) {
    await writeFile(path, text)
    await chmod(path, 0o600)
  }
  slack.channels.add(DIRECT)
  chat = `[chat]
name = "igorina"
api_url = "${slack.apiUrl}"
app_token_file = "${secrets.app}"
bot_token_file = "${secrets.bot}"
log_channel = "${LOG}"
people = { ${Object.entries(PEOPLE)
    .map(([id, name]) => `${id} = "${name}"`)
    .join(', ')} }
[chat.instances.demo]
url = "https://127.0.0.1:${made.port()}"
pin = "${made.pin()}"
token_file = "${secrets.smith}"
`
  // The bot needs a token of the coordinator, so it comes with the second start, as on a site.
  await made.coordinator?.stop()
  await made.startCoordinator()
  await Promise.all(
    MACHINES.map((name) => made.addMachine(name, name === FLAKY_MACHINE ? [...installed, flaky] : installed)),
  )
  await until('the machines', async () => {
    const listed = await made.smith('machines', '--json')
    return (
      (JSON.parse(listed.stdout) as { online: boolean }[]).filter(({ online }) => online).length === MACHINES.length
    )
  })
  await until('the bot', () => slack.sockets.size > 0)
}

/** Nobody at a demonstration waits as long as a site does before it looks again. */
const QUICK = 'change_poll = 0.5\npermission_retry = 0.5'

const changeSection = (url: string, secretFile: string) => `provider = "servicenow"
[change.servicenow]
url = "${url}"
client_id = "smith"
secret_file = "${secretFile}"
assignment_group = "${GROUP}"
poll = 0.5`

function approve(change: string): void {
  say(`${styleText('cyan', 'Grace Hopper')} approves ${change} in ServiceNow`)
  desk.records.approve(change)
}

function showChange(number: string): void {
  const { records } = desk
  const change = records.byNumber(number)
  say(`${number} state ${change['state']} (closed), ${change['close_code']}: ${change['short_description']}`)
  for (const task of records.tasksOf(change))
    say(`  ${task['number']} state ${task['state']} (closed), ${task['close_code']}: ${task['short_description']}`)
}

/** Everything that is said or edited, as it comes; the answer ends it. */
function tell(): () => void {
  const seen = new Map<string, number>()
  const show = (message: Posted, index: number) => {
    const where = message.channel === LOG ? '#patch-log' : 'direct'
    const how = `${index > 0 ? ', edited' : ''}${message.thread === null ? '' : ', thread'}`
    const text = message.file === null ? plainLines(message.texts[index] ?? '') : `[file ${message.file.title}]`
    say(
      `${styleText('magenta', 'igorina')} ${styleText('dim', `(${where}${how})`)}\n  ${text.replaceAll('\n', '\n  ')}`,
    )
  }
  const look = () => {
    for (const message of slack.posted) {
      const known = seen.get(message.ts) ?? 0
      const now = message.file === null ? message.texts.length : 1
      for (let index = known; index < now; index += 1) show(message, index)
      seen.set(message.ts, now)
    }
  }
  showNews = look
  const timer = setInterval(look, 50)
  return () => {
    clearInterval(timer)
    look()
  }
}

const plainLines = (text: string) =>
  text
    .replace(/<!date\^\d+\^[^|]*\|([^>]*)>/g, '$1')
    .replace(/<(https?:[^|>]*)\|([^>]*)>/g, '$2: $1')
    .replace(/<@([A-Z0-9]+)>/g, (_, id: string) => `@${(PEOPLE as Record<string, string>)[id] ?? id}`)
    .split('\n')
    .map((line) => line.replace(/^ */, '') && line.match(/^ */)?.[0] + plain(line))
    .join('\n')

function typed(user: string, text: string): void {
  showNews()
  say(`${styleText('cyan', (PEOPLE as Record<string, string>)[user] ?? user)}\n  ${text}`)
  slack.say(user, DIRECT, text)
}

async function click(user: string, action: string): Promise<void> {
  const has = (message: Posted) => JSON.stringify(message.blocks ?? []).includes(`"${action}"`)
  await until(`the button ${action}`, () => slack.posted.some(has))
  const message = slack.posted.find(has)
  if (message === undefined) return
  showNews()
  say(`${styleText('cyan', (PEOPLE as Record<string, string>)[user] ?? user)} clicks ${action.replace('smith_', '')}`)
  slack.click(user, message, action)
}

/** The message after so many others that match, waited for. */
async function said(channel: string, pattern: RegExp, after = 0): Promise<Posted> {
  const matching = () => slack.in(channel).filter((message) => pattern.test(message.text))
  await until(String(pattern), () => matching().length > after)
  return matching()[after] as Posted
}

async function until(what: string, test: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + WAIT_MS_MAX
  while (!(await test())) {
    if (Date.now() > deadline) throw new Error(`${what} never came`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

async function stay(): Promise<void> {
  if (!isInteractive) return
  heading('It stays until Ctrl-C. What you type Ann says; `confirm` clicks her button, `approve CHG` is done by Grace.')
  for await (const line of createInterface({ input: process.stdin })) {
    const text = line.trim()
    const [, change] = /^approve\s+(CHG\d+)$/i.exec(text) ?? []
    try {
      if (change !== undefined) approve(change.toUpperCase())
      else if (text === 'confirm') await click(ANN, 'smith_confirm')
      else if (text !== '') slack.say(ANN, DIRECT, text)
    } catch (error) {
      say(String(error))
    }
  }
}

async function end(status: number): Promise<never> {
  isEnding = true
  await site?.stop()
  await slack.close()
  await serviceNow?.close()
  if (site !== null) say(`\nAll stopped. What is left is ${site.dir}; remove it when you like.`)
  process.exit(status)
}

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => void (isEnding || end(signal === 'SIGINT' && isInteractive ? 0 : 130)))

main().catch(async (error: unknown) => {
  if (isEnding) return
  process.stderr.write(`\nerror: ${error instanceof Error ? error.message : String(error)}\n`)
  process.stderr.write(`   do: see the logs in ${site?.dir ?? 'the folder named above'}\n`)
  await end(1)
})
