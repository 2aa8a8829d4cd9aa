/** The configuration of the bot, and the files of its secrets. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { parseConfig } from '../../coordinator/config.ts'
import { readSecret } from '../../coordinator/secrets.ts'

const PIN = 'a'.repeat(43)
const CHAT = `instance = "prod"
[chat]
name = "igorina"
app_token_file = "credential:slack-app"
bot_token_file = "/etc/smith/slack-bot"
log_channel = "C0LOG"
people = { U0ANN = "ann" }
[chat.instances.prod]
url = "https://smith.example.com"
pin = "${PIN}"
token_file = "/etc/smith/bot-prod"
[chat.instances.dev]
url = "https://[2001:db8::1]:7601"
pin = "${PIN}"
token_file = "/etc/smith/bot-dev"
`
const problems = (text: string) => {
  const answer = parseConfig(text, 'c.toml')
  return answer.ok ? [] : answer.refusals.map((refusal) => refusal.message)
}

t.test('[BOT-50] the bot is there where it is configured, with its instances in their order', async (t) => {
  const none = parseConfig('instance = "prod"\n', 'c.toml')
  t.equal(none.ok && none.config.chat, null)
  const answer = parseConfig(CHAT, 'c.toml')
  t.same(answer.ok && answer.config.chat, {
    ...{ name: 'igorina', apiUrl: 'https://slack.com/api/', appTokenFile: 'credential:slack-app' },
    ...{ botTokenFile: '/etc/smith/slack-bot', logChannel: 'C0LOG', confirmAbove: 3, people: { U0ANN: 'ann' } },
    instances: [
      { name: 'prod', host: 'smith.example.com', port: 7600, pin: PIN, tokenFile: '/etc/smith/bot-prod' },
      { name: 'dev', host: '2001:db8::1', port: 7601, pin: PIN, tokenFile: '/etc/smith/bot-dev' },
    ],
  })
})

t.test('[BOT-50] what is wrong in it is refused with its line', async (t) => {
  t.match(
    problems('instance = "prod"\n[chat]\n').join(),
    /app_token_file is missing.*bot_token_file is missing.*instances is missing/,
  )
  for (const [from, to, problem] of [
    ['U0ANN = "ann"', 'ann = "ann"', /c\.toml:7: chat\.people can't be/],
    ['"C0LOG"', '"#patch-log"', /c\.toml:6: chat\.log_channel can't be/],
    ['"credential:slack-app"', '"xapp-secret"', /c\.toml:4: chat\.app_token_file can't be/],
    ['https://smith.example.com', 'http://smith.example.com', /chat\.instances can't be/],
    ['name = "igorina"', 'nmae = "igorina"', /chat\.nmae is no key/],
  ] as const)
    t.match(problems(CHAT.replace(from, to)).join(), problem)
})

t.test('[BOT-50] a secret is read from a file that others can not use, or from a credential of systemd', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'smith-secret-'))
  const before = process.env['CREDENTIALS_DIRECTORY']
  t.teardown(() => {
    rmSync(dir, { recursive: true, force: true })
    if (before === undefined) delete process.env['CREDENTIALS_DIRECTORY']
    else process.env['CREDENTIALS_DIRECTORY'] = before
  })
  const file = join(dir, 'token')
  writeFileSync(file, 'xoxb-1\n')
  chmodSync(file, 0o604)
  t.throws(() => readSecret(file), /others can use it: chmod o= /)
  chmodSync(file, 0o640)
  t.equal(readSecret(file), 'xoxb-1')
  writeFileSync(file, 'xoxb-2')
  t.equal(readSecret(file), 'xoxb-2', 'a new one is good at once')
  delete process.env['CREDENTIALS_DIRECTORY']
  t.throws(() => readSecret('credential:token'), /LoadCredential=/)
  process.env['CREDENTIALS_DIRECTORY'] = dir
  t.equal(readSecret('credential:token'), 'xoxb-2')
  writeFileSync(file, '\n')
  t.throws(() => readSecret(file), /is empty/)
  t.throws(() => readSecret(join(dir, 'none')), /ENOENT/)
})
