/**
 * `smith-agent enrol`: makes the machine's key, shows the token to the coordinator that holds the pinned key, and
 * writes what came back. Run as root, once.
 * Invariants: nothing is sent to anyone who does not hold the key that the token names; a machine has either a whole
 * identity or none.
 */
import { execFileSync } from 'node:child_process'
import { createHash, generateKeyPairSync } from 'node:crypto'
import { existsSync, lchownSync, readFileSync } from 'node:fs'
import { request } from 'node:http'
import type { TLSSocket } from 'node:tls'
import * as v from 'valibot'
import { ENROL_TOKEN_PATTERN, enrolAnswerSchema } from '../protocol/agent.ts'
import { type Refusal, RefusedError } from '../protocol/errors.ts'
import { ROUTES, problemSchema } from '../protocol/http.ts'
import { connectPinned } from '../protocol/pin.ts'
import { AGENT_CONFIG_FILE, type AgentConfig, readAgentConfig } from './config.ts'
import { createRealDisk } from './disk/disk.ts'
import { makeStateFolders, writeGrantKeys } from './disk/grant-key.ts'
import { type Layout, layoutOf } from './disk/layout.ts'
import { createDescribe } from './facts.ts'
import { identityFile, keyFile, readStoredIdentity, writeIdentity } from './identity.ts'
import { counterFile } from './session/connection.ts'
import { problemOf } from './session/guard.ts'
import { hostAndPort } from './websocket-link.ts'

const ANSWER_BYTES_MAX = 65_536

export type EnrolOptions = {
  readonly config: string
  readonly coordinator: string
  readonly token: string
  readonly force: boolean
}
export type Enrolled = {
  readonly machine: string
  readonly name: string
  readonly instance: string
  readonly notes: readonly string[]
}

/** Throws a RefusedError with what stands against it. */
export async function enrol(options: EnrolOptions): Promise<Enrolled> {
  const config = readAgentConfig(options.config)
  const disk = createRealDisk()
  const layout = layoutOf(config.stateDir)
  const token = options.token === '-' ? readFileSync(0, 'utf8').trim() : options.token
  const [, , pin, name] = ENROL_TOKEN_PATTERN.exec(token) ?? []
  if (pin === undefined || name === undefined) throw new RefusedError([NOT_A_TOKEN])
  const before = options.force ? null : readStoredIdentity(disk, layout)
  if (before !== null) throw new RefusedError([alreadyEnrolled(before.name, before.instance)])
  makeStateFolders(disk, layout)

  const key = generateKeyPairSync('ed25519')
  const publicKey = key.publicKey.export({ type: 'spki', format: 'der' }).toString('base64')
  const body = { token, publicKey, facts: createDescribe(config, disk)().facts }
  const answer = await ask(options.coordinator, pin, config, body)
  const keyPem = key.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
  const { machine, instance } = answer
  // The grant key first: without an identity nobody starts on the rest.
  const keyId = createHash('sha256').update(Buffer.from(answer.orderKey, 'base64')).digest('hex')
  const { coordinator } = options
  writeGrantKeys(disk, layout, { machine, coordinator, keys: [{ keyId, key: answer.orderKey }] })
  writeIdentity(disk, layout, keyPem, { machine, name: answer.name, instance, coordinator, pin })
  giveToAgent(config, layout)
  return { machine, name: answer.name, instance, notes: [...notesOn(config, options), ...startService(config)] }
}

/** Where the package made a user for the agent, the agent's folders are that user's. */
function giveToAgent(config: AgentConfig, layout: Layout): void {
  if (process.getuid?.() !== 0 || config.runMode !== 'systemd') return
  const [uid, gid] = idsOf('smith')
  if (uid === undefined || gid === undefined) return
  const written = [keyFile(layout), counterFile(layout), identityFile(layout)]
  // Never what a link in the agent's folder leads to: that folder is the agent's, and this is root.
  for (const path of [layout.agent, layout.inbox, layout.asks, ...written]) lchownSync(path, uid, gid)
}

/** passwd(5); the package's user is always a local one. */
function idsOf(user: string): (number | undefined)[] {
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((one) => one.startsWith(`${user}:`))
  return line === undefined ? [] : line.split(':').slice(2, 4).map(Number)
}

/** Where the package's service is, it takes up the new identity at once. */
function startService(config: AgentConfig): string[] {
  if (process.getuid?.() !== 0 || config.runMode !== 'systemd') return []
  if (config.file !== AGENT_CONFIG_FILE || !existsSync('/run/systemd/system')) return []
  try {
    execFileSync('systemctl', ['restart', '--no-block', 'smith-agent.service'], { stdio: 'pipe', timeout: 30_000 })
    return ['smith-agent.service was started.']
  } catch (error) {
    return [`smith-agent.service could not be started (${problemOf(error).trim()}): systemctl restart smith-agent`]
  }
}

function notesOn(config: AgentConfig, options: EnrolOptions): string[] {
  if (config.coordinator === null || hostAndPort(config.coordinator).host === hostAndPort(options.coordinator).host)
    return []
  return [
    `Note: ${config.file} names ${config.coordinator}; the agent connects to that, and expects the same key there.`,
  ]
}

async function ask(
  url: string,
  pin: string,
  config: AgentConfig,
  body: object,
): Promise<v.InferOutput<typeof enrolAnswerSchema>> {
  const { host, port } = hostAndPort(url)
  const socket = await connectPinned({ host, port, pin, timeoutMs: config.limits.connectMs })
  const answer = await post(socket, `${host}:${port}`, JSON.stringify(body), config.limits.connectMs)
  let json: unknown
  try {
    json = JSON.parse(answer.text)
  } catch {
    throw new RefusedError([notAnAnswer(url, `HTTP status ${answer.status}, not JSON`)])
  }
  if (answer.status !== 200) {
    const problem = v.safeParse(problemSchema, json)
    if (problem.success && problem.output.refusals.length > 0) throw new RefusedError(problem.output.refusals)
    throw new RefusedError([notAnAnswer(url, `HTTP status ${answer.status}`)])
  }
  const parsed = v.safeParse(enrolAnswerSchema, json)
  if (!parsed.success) throw new RefusedError([notAnAnswer(url, parsed.issues[0].message)])
  return parsed.output
}

/** One request on a connection that is verified already. */
function post(
  socket: TLSSocket,
  host: string,
  body: string,
  timeoutMs: number,
): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve, reject) => {
    const fail = (problem: string) => {
      socket.destroy()
      reject(new RefusedError([{ ...OUT_OF_REACH, message: `the coordinator at ${host} gave no answer: ${problem}` }]))
    }
    const headers = {
      host,
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      connection: 'close',
    }
    const call = request(
      { method: 'POST', path: ROUTES.enrol.path, headers, createConnection: () => socket, timeout: timeoutMs },
      (response) => {
        const chunks: Buffer[] = []
        let bytes = 0
        response.on('data', (chunk: Buffer) => {
          bytes += chunk.length
          if (bytes > ANSWER_BYTES_MAX) fail(`it is longer than ${ANSWER_BYTES_MAX} bytes`)
          else chunks.push(chunk)
        })
        response.on('error', (error) => fail(error.message))
        response.on('end', () => {
          socket.destroy()
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString('utf8') })
        })
      },
    )
    call.on('timeout', () => fail(`nothing for ${timeoutMs} ms`))
    call.on('error', (error) => fail(problemOf(error)))
    call.end(body)
  })
}

const NOT_A_TOKEN: Refusal = {
  kind: 'bad-value',
  message: 'this is no enrolment token',
  remedy: 'Copy the whole token that `smith enrol new --name NAME` printed; it begins with smith1.',
}
const OUT_OF_REACH = {
  kind: 'unavailable',
  remedy:
    'Check that the coordinator runs, then try again; if the token was used up by this try, make a new one with --replace.',
} as const

function notAnAnswer(url: string, problem: string): Refusal {
  return {
    kind: 'unavailable',
    message: `${url} did not answer as a coordinator does: ${problem}`,
    remedy: 'Check the URL, and that agent and coordinator are of the same version.',
  }
}

function alreadyEnrolled(name: string, instance: string): Refusal {
  return {
    kind: 'exists',
    message: `this machine is enrolled already, as ${name} with instance ${instance}`,
    remedy: 'To give it a new identity, run the same with --force.',
  }
}
