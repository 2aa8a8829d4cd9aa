/**
 * The dashboard's own files: the page at `/` and what it loads. Called by routes.ts. They hold no data and are given
 * to anybody; what the page shows it asks for like any client. The policy lets nothing in it run, load or be framed
 * but these files, so that no output of a package can act in whoever reads it.
 */
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { DashboardFiles } from '../ports.ts'

/** W3C Content Security Policy 3 and Trusted Types: no text becomes markup or code, wherever it comes from. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join('; ')
const HEADERS = {
  'content-security-policy': POLICY,
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'permissions-policy': 'camera=(), geolocation=(), microphone=(), usb=()',
}

export function addPageRoutes(app: FastifyInstance, dashboard: DashboardFiles): void {
  const send = async (reply: FastifyReply, path: string, caching: string): Promise<FastifyReply> => {
    const file = (await dashboard()).get(path)
    if (file === undefined) {
      reply.callNotFound()
      return reply
    }
    return reply
      .headers({ ...HEADERS, 'cache-control': caching })
      .type(file.type)
      .send(file.bytes)
  }
  app.get('/', (_request, reply) => send(reply, '/', 'no-store'))
  // Their names bear a hash of what is in them.
  app.get('/assets/:file', (request, reply) => {
    const { file } = request.params as { readonly file: string }
    return send(reply, `/assets/${file}`, 'public, max-age=31536000, immutable')
  })
}
