// The point viewer of a report: turn, zoom, choose the frame and what the colours mean.
import {
	BufferAttribute, BufferGeometry, PerspectiveCamera, Points, PointsMaterial, Quaternion, Scene,
	SRGBColorSpace, Vector3, WebGLRenderer,
} from 'three';
import { OrbitControls } from 'orbit-controls';

const FIELD_OF_VIEW = 55;
const TURN = 15 * Math.PI / 180;
const ELEVATION = 16 * Math.PI / 180;
const FILLED = 0.92;
const LEFT_OUT = 0.02;
const FITTED_POINTS = 2000;
const ROUNDS = 14;
const UP = new Vector3( 0, 1, 0 );
// Camera axes are x right, y down, z forward; three.js has y up and looks along -z.
const SIGN = [ 1, - 1, - 1 ];

function bytes( text ) {
	return Uint8Array.from( atob( text ), letter => letter.charCodeAt( 0 ) );
}

function positions( frame ) {
	const steps = new Uint16Array( bytes( frame.positions ).buffer );
	const values = new Float32Array( steps.length );
	for ( let i = 0; i < steps.length; i ++ ) {
		const axis = i % 3;
		values[ i ] = SIGN[ axis ] * ( frame.low[ axis ] + steps[ i ] * frame.step[ axis ] );
	}
	return values;
}

// Middle and half width of what is left without the outermost values.
function extent( values ) {
	const sorted = Float64Array.from( values ).sort();
	const low = sorted[ Math.floor( LEFT_OUT * ( sorted.length - 1 ) ) ];
	const high = sorted[ Math.ceil( ( 1 - LEFT_OUT ) * ( sorted.length - 1 ) ) ];
	return { middle: ( low + high ) / 2, half: ( high - low ) / 2 };
}

// Where a falling function crosses zero.
function crossing( low, high, value ) {
	for ( let round = 0; round < ROUNDS; round ++ ) {
		const middle = ( low + high ) / 2;
		if ( value( middle ) > 0 ) low = middle;
		else high = middle;
	}
	return ( low + high ) / 2;
}

// Where to stand, and at what to look, so that the points fill the canvas when seen from `back`.
function fitted( points, back, aspect ) {
	const right = new Vector3().crossVectors( UP, back ).normalize();
	const up = new Vector3().crossVectors( back, right );
	const along = axis => Float64Array.from( points, point => point.dot( axis ) );
	const [ x, y, toward ] = [ right, up, back ].map( along );
	const depth = extent( toward );
	const radius = Math.max( extent( x ).half, extent( y ).half, depth.half, 1e-6 );
	const nearest = depth.middle + depth.half + 0.05 * radius;
	const tangent = Math.tan( FIELD_OF_VIEW * Math.PI / 360 );
	const seen = ( values, origin, distance ) => extent( values.map( ( value, i ) =>
		( value - origin ) / Math.max( distance - toward[ i ], 0.02 * radius ) ) );
	const centred = ( values, distance ) => crossing( Math.min( ...values ), Math.max( ...values ),
		origin => seen( values, origin, distance ).middle );
	const filled = distance => Math.max(
		seen( x, centred( x, distance ), distance ).half / aspect,
		seen( y, centred( y, distance ), distance ).half,
	) / tangent;
	const distance = crossing( nearest, nearest + 10 * radius, value => filled( value ) - FILLED );
	const at = forward => new Vector3().addScaledVector( right, centred( x, distance ) )
		.addScaledVector( up, centred( y, distance ) ).addScaledVector( back, forward );
	return { position: at( distance ), target: at( depth.middle ) };
}

class Viewer {
	constructor( root ) {
		this.root = root;
		this.frames = JSON.parse( root.querySelector( 'script' ).textContent );
		this.stage = root.querySelector( '.stage' );
		this.renderer = new WebGLRenderer( { antialias: true } );
		this.renderer.outputColorSpace = SRGBColorSpace;
		this.renderer.setPixelRatio( Math.min( devicePixelRatio, 2 ) );
		this.stage.replaceChildren( this.renderer.domElement );
		this.renderer.setClearColor( 0x10141b );
		this.scene = new Scene();
		this.camera = new PerspectiveCamera( FIELD_OF_VIEW, 1, 0.01, 1000 );
		this.controls = new OrbitControls( this.camera, this.renderer.domElement );
		this.controls.addEventListener( 'change', () => this.draw() );
		this.controls.addEventListener( 'start', () => { this.moved = true; } );
		this.material = new PointsMaterial( { vertexColors: true, sizeAttenuation: false } );
		this.points = new Points( new BufferGeometry(), this.material );
		this.points.frustumCulled = false;
		this.scene.add( this.points );
		this.listen();
		this.show( 0 );
		new ResizeObserver( () => this.resize() ).observe( this.stage );
	}

	listen() {
		const choose = name => this.root.querySelector( `[name=${ name }]` );
		this.coloring = choose( 'coloring' );
		this.size = choose( 'size' );
		choose( 'frame' ).addEventListener( 'change', event => this.show( Number( event.target.value ) ) );
		this.coloring.addEventListener( 'change', () => this.paint() );
		this.size.addEventListener( 'input', () => this.draw() );
		choose( 'reset' ).addEventListener( 'click', () => this.look() );
		this.root.querySelector( '.controls' ).hidden = false;
	}

	show( number ) {
		this.frame = this.frames[ number ];
		const values = positions( this.frame );
		this.points.geometry.dispose();
		this.points.geometry = new BufferGeometry();
		this.points.geometry.setAttribute( 'position', new BufferAttribute( values, 3 ) );
		const up = new Vector3( ...this.frame.up.map( ( value, axis ) => SIGN[ axis ] * value ) );
		this.leveled = new Quaternion().setFromUnitVectors( up, UP );
		this.points.geometry.applyQuaternion( this.leveled );
		const wanted = this.coloring.value;
		this.coloring.replaceChildren( ...Object.keys( this.frame.colors ).map( name => new Option( name ) ) );
		if ( wanted in this.frame.colors ) this.coloring.value = wanted;
		this.look();
		this.paint();
	}

	// All points, from the side of the camera that took the image, a little beside and above it.
	look() {
		this.moved = false;
		const place = this.points.geometry.getAttribute( 'position' );
		const step = Math.max( 1, Math.floor( place.count / FITTED_POINTS ) );
		const shown = [];
		for ( let i = 0; i < place.count; i += step ) shown.push( new Vector3().fromBufferAttribute( place, i ) );
		const forward = new Vector3( 0, 0, - 1 ).applyQuaternion( this.leveled ).setY( 0 );
		if ( forward.length() < 1e-3 ) forward.set( 0, 0, - 1 );
		const back = forward.normalize().negate().applyAxisAngle( UP, TURN );
		back.multiplyScalar( Math.cos( ELEVATION ) ).addScaledVector( UP, Math.sin( ELEVATION ) );
		const { position, target } = fitted( shown, back, this.camera.aspect );
		this.distance = position.distanceTo( target );
		this.camera.position.copy( position );
		this.camera.near = 0.001 * this.distance;
		this.camera.far = 100 * this.distance;
		this.camera.updateProjectionMatrix();
		this.controls.target.copy( target );
		this.controls.update();
		this.draw();
	}

	paint() {
		const colors = bytes( this.frame.colors[ this.coloring.value ] );
		// Stored as sRGB; three.js mixes in linear light and turns it back when it draws.
		const linear = Float32Array.from( colors, value => ( value / 255 ) ** 2.2 );
		this.points.geometry.setAttribute( 'color', new BufferAttribute( linear, 3 ) );
		this.draw();
	}

	resize() {
		const { clientWidth, clientHeight } = this.stage;
		this.camera.aspect = clientWidth / clientHeight;
		this.camera.updateProjectionMatrix();
		this.renderer.setSize( clientWidth, clientHeight );
		if ( this.moved ) this.draw();
		else this.look();
	}

	draw() {
		// In pixels, so that near points do not hide all others; zooming in makes them larger.
		const zoom = this.distance / this.camera.position.distanceTo( this.controls.target );
		this.material.size = 1.25 * Number( this.size.value ) * Math.max( zoom, 1 );
		this.renderer.render( this.scene, this.camera );
	}
}

for ( const root of document.querySelectorAll( '.viewer' ) ) {
	if ( document.createElement( 'canvas' ).getContext( 'webgl2' ) ) {
		new Viewer( root );
	} else {
		root.querySelector( '.stage' ).textContent =
			'This browser offers no WebGL 2, so the points cannot be turned here. The pictures show the same values.';
	}
}
